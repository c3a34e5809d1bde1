"""The manifests of deploy/kuberay as a user applies them, read once, and a Slurm cluster."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.slurm_cluster import SlurmCluster, missing_requirement

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"

Manifest = dict[str, Any]


def kustomize(folder: Path) -> list[Manifest]:
    """The objects that `kubectl apply --kustomize` sends."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl not found")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="session")
def deploy() -> Path:
    return DEPLOY


@pytest.fixture(scope="session")
def all_manifests() -> list[Manifest]:
    """Every object in the files of deploy/kuberay, including optional components, before kustomize."""
    return [
        document
        for path in sorted((DEPLOY / "kuberay").rglob("*.yaml"))
        if path.name not in ("kustomization.yaml", "study.yaml")
        for document in yaml.safe_load_all(path.read_text())
    ]


@pytest.fixture(scope="session")
def cluster_manifests() -> list[Manifest]:
    """The long-lived objects: Ray cluster, databases, MLflow, service."""
    return kustomize(DEPLOY / "kuberay")


@pytest.fixture(scope="session")
def job_manifests() -> list[Manifest]:
    """A study as a RayJob."""
    return kustomize(DEPLOY / "kuberay" / "rayjob")


def kustomize_with_components(copy: Path, folder: str) -> list[Manifest]:
    """A folder's objects with the components that its kustomization.yaml lists in comments enabled."""
    shutil.copytree(DEPLOY / "kuberay", copy)
    file = copy / folder / "kustomization.yaml"
    lines = file.read_text().splitlines()
    enabled = [
        line.removeprefix("# ") if line.startswith(("# components", "#   - ")) else line for line in lines
    ]
    assert enabled != lines
    file.write_text("\n".join(enabled))
    return kustomize(copy / folder)


@pytest.fixture(scope="session")
def cluster_manifests_with_bucket(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """The long-lived objects with the optional component that stores studies in a bucket."""
    return kustomize_with_components(tmp_path_factory.mktemp("bucket") / "kuberay", ".")


@pytest.fixture(scope="session")
def queued_job_manifests(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """A study as a RayJob that waits in a Kueue queue."""
    return kustomize_with_components(tmp_path_factory.mktemp("queued") / "kuberay", "rayjob")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A Slurm cluster of two nodes; its jobs write their output to its folder."""
    if missing := missing_requirement():
        pytest.skip(missing)
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.close()
