"""The manifests as a user applies them, read once."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"

Manifest = dict[str, Any]


def load(name: str) -> ModuleType:
    """A module beside the tests (they are no package)."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def kustomize(folder: Path) -> list[Manifest]:
    """The objects that `kubectl apply --kustomize` sends."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="session")
def deploy() -> Path:
    return DEPLOY


@pytest.fixture(scope="session")
def written() -> list[Manifest]:
    """Every object as it is written in deploy/kuberay, options included."""
    return [
        document
        for path in sorted((DEPLOY / "kuberay").rglob("*.yaml"))
        if path.name not in ("kustomization.yaml", "study.yaml")
        for document in yaml.safe_load_all(path.read_text())
    ]


@pytest.fixture(scope="session")
def standing() -> list[Manifest]:
    """What stands between studies."""
    return kustomize(DEPLOY / "kuberay")


@pytest.fixture(scope="session")
def job() -> list[Manifest]:
    """A study as a RayJob."""
    return kustomize(DEPLOY / "kuberay" / "rayjob")


def switched_on(copy: Path, folder: str) -> list[Manifest]:
    """A folder's objects with the components that its kustomization.yaml offers in comments."""
    shutil.copytree(DEPLOY / "kuberay", copy)
    file = copy / folder / "kustomization.yaml"
    lines = file.read_text().splitlines()
    switched = [
        line.removeprefix("# ") if line.startswith(("# components", "#   - ")) else line for line in lines
    ]
    assert switched != lines
    file.write_text("\n".join(switched))
    return kustomize(copy / folder)


@pytest.fixture(scope="session")
def with_options(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """What stands between studies, with the optional component."""
    return switched_on(tmp_path_factory.mktemp("options") / "kuberay", ".")


@pytest.fixture(scope="session")
def queued_job(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """A study as a RayJob that waits in a queue."""
    return switched_on(tmp_path_factory.mktemp("queued") / "kuberay", "rayjob")


@pytest.fixture(scope="session")
def ray_io() -> ModuleType:
    return load("ray_io")


@pytest.fixture(scope="session")
def kueue_kinds() -> ModuleType:
    return load("kueue_kinds")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Slurm of two nodes; the output of its jobs lies in its folder."""
    slurm_cluster = load("slurm_cluster")
    if missing := slurm_cluster.what_is_missing():
        pytest.skip(missing)
    cluster = slurm_cluster.SlurmCluster(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.close()
