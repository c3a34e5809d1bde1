"""compose.yaml as a user has it, without a container engine: the wheel in a clean environment, every service a process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SERVERS = Path(__file__).parents[1] / "tuning" / "tracking" / "servers.py"
HERE = Path(__file__).parent

INSTALL = """
mkdir -p /opt/proxytune
mount --bind "$1" /opt/proxytune
python=$2
"$python" -m venv /opt/proxytune
/opt/proxytune/bin/pip install --quiet --constraint "$3/constraints.txt" "$(echo "$4"/*.whl)[$5]"
"""


def extras(dockerfile: str) -> str:
    return dockerfile.partition("*.whl)[")[2].partition("]")[0]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.getuid() != 0, reason="namespaces need root")
def test_a_study_runs_over_compose_and_loses_nothing_to_a_stopped_worker_and_head(
    deploy: Path, tmp_path: Path, record_property: Any
) -> None:
    if not Path("/opt/proxytune").exists() and os.access("/opt", os.W_OK) is False:
        pytest.skip("/opt cannot be written")
    import importlib.util

    spec = importlib.util.spec_from_file_location("servers", SERVERS)
    assert spec is not None
    assert spec.loader is not None
    servers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(servers)
    binaries = servers.postgres_binaries()
    assert binaries is not None
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    wheels, package, work, copy = (tmp_path / name for name in ("wheels", "package", "work", "copy"))
    for folder in (package, work, copy):
        folder.mkdir()
    subprocess.run(
        [
            *(sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", wheels, deploy.parent),
        ],
        check=True,
        capture_output=True,
    )
    wanted = extras((deploy / "Dockerfile").read_text())
    base = Path(sys.base_prefix) / "bin" / "python3"
    subprocess.run(
        ["unshare", "--mount", "sh", "-euc", INSTALL, "sh", package, base, deploy.parent, wheels, wanted],
        check=True,
    )
    shutil.copytree(deploy, copy / "deploy", ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([copy / "deploy" / "secrets.sh"], check=True)
    done = subprocess.run(
        [
            *("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"),
            *(
                sys.executable,
                "-P",
                HERE / "stack.py",
                copy / "deploy" / "compose.yaml",
                package,
                binaries,
                work,
            ),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    facts = json.loads(done.stdout[done.stdout.index("{") :])
    record_property("compose", facts)
    assert facts["asked_from_outside"] == {
        "MLflow without account": 401,
        "MLflow with account": 200,
        "MLflow, host evil": 403,
        "MLflow, host 192.168.0.9": 403,
        "Ray jobs without token": 401,
        "Ray jobs with a wrong token": 403,
        "Ray jobs with token": 200,
        "service without token": 401,
        "service with token": 200,
        "service metrics without token": 401,
    }
    assert facts["worker_stopped"]["checkpoints_written"] > 0
    assert facts["reports"] == {"all": 20, "distinct": 20}
    assert facts["metrics"]
    assert facts["mlflow_runs"] == ["FINISHED"] * 5
    assert facts["places_searched"] > 20
    assert facts["secrets_seen_in"] == []
    assert (
        facts["stopped"]["mlflow"] == facts["stopped"]["postgres"] == 0
    )  # Ray and uvicorn end by the signal
