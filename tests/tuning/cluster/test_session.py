"""The number of trials that fit on a cluster, the findings of `doctor` per node, and the package that nodes receive."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from proxytune.tuning.cluster.package import package_folders
from proxytune.tuning.cluster.preflight import RED, _node_findings
from proxytune.tuning.cluster.session import RaySession
from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.trial_spec import Resources


class FixedSession(RaySession):
    """A session on a cluster of nodes with the given numbers of (CPUs, GPUs)."""

    def __init__(self, *nodes: tuple[float, float]) -> None:
        super().__init__(Path("/nowhere"))
        self._fixed = [{"CPU": cpus, "GPU": gpus} for cpus, gpus in nodes]

    def nodes(self) -> list[dict[str, float]]:
        return self._fixed


@pytest.mark.parametrize(
    ("nodes", "cpu", "gpu", "fits"),
    [
        ([(8, 0)], 1, "auto", 8),
        ([(0, 0), (8, 1), (8, 1)], 2, "auto", 2),  # a head without cores, two GPU nodes
        ([(3, 0), (3, 0)], 2, 0, 2),  # one core of each node remains unused
        ([(16, 2), (4, 0)], 1, 0.5, 4),
        ([(16, 1)], 1, 0.1, 10),
    ],
)
def test_slots_are_counted_per_node(nodes, cpu, gpu, fits: int) -> None:
    session = FixedSession(*nodes)
    needs = session.trial_resources(Resources(cpu=cpu, gpu=gpu))
    assert session.slots(needs, None) == fits
    assert session.slots(needs, 1) == 1
    assert session.slots(needs, 99) == fits


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (Resources(cpu=4), "resources.cpu: 4 is more than the largest node has (3)"),
        (Resources(gpu=1), "resources.gpu: 1"),
    ],
)
def test_resources_beyond_the_largest_node_are_rejected(resources: Resources, words: str) -> None:
    with pytest.raises(InputError) as caught:
        FixedSession((3, 0), (3, 0)).trial_resources(resources)
    assert words in str(caught.value)


def test_shipped_package_contains_the_files_of_the_wheel(tmp_path: Path) -> None:
    shipped, metadata = package_folders(tmp_path)
    names = {path.name for path in Path(shipped).rglob("*") if path.is_file()}
    assert {"text-512-proxyformer.jsonl.xz", "study.schema.json", "recall.yaml", "slurm.sbatch"} <= names
    assert not list(tmp_path.rglob("__pycache__"))
    assert Path(metadata).name.startswith("proxytune-")
    script = "import proxytune.tuning.spec.study_spec as m, importlib.metadata as d; print(m.__file__, d.version('proxytune'))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path))


def answer(**changes) -> dict:
    """The answer of a healthy node to `doctor`, with changes."""
    return {
        "versions": {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"},
        "cuda": {"build": "12.9", "gpus": ["H100, 80 GiB"]},
        "memory_gib": 64.0,
        "folder": ("ok", "private"),
        "resources": {"CPU": 8.0, "GPU": 1.0},
        "skew": (0.1, 0.2),
        "data": ("ok", "prepared"),
    } | changes


@pytest.mark.parametrize(
    ("changes", "red", "words"),
    [
        ({}, set(), ""),
        (
            {"versions": {"python": "3.11.7", "ray": "2.60.0", "torch": "2.14.0"}},
            {"versions"},
            "torch 2.14.0, here 2.13.0",
        ),
        ({"cuda": {"build": None, "gpus": []}}, {"resources"}, "without CUDA"),
        ({"cuda": {"build": None, "gpus": []}, "resources": {"CPU": 8.0}}, set(), ""),
        ({"skew": (-9.0, 0.5)}, {"clock"}, "-9.00 s"),
        ({"skew": (-9.0, 8.5)}, set(), ""),  # within the error of the measurement
        ({"folder": ("red", "others can")}, {"folder"}, "others can"),
        ({"data": ("red", "text: no root")}, {"data"}, "no root"),
    ],
)
def test_doctor_marks_the_faults_of_a_node_red(changes, red: set[str], words: str) -> None:
    findings = list(_node_findings("node", answer(**changes), answer()["versions"]))
    assert {finding.check for finding in findings if finding.state == RED} == red
    assert words in " ".join(finding.text for finding in findings if finding.state == RED)


def output_of(*arguments: str, cwd: Path | None = None) -> str:
    """The standard output of a Python process that starts Ray; retried, since Ray gives up after 30 s on a slow machine."""
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False
        )
        if "Ray did not start" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    return done.stdout


AFTER_SESSION = """
import ray
from proxytune.tuning.cluster.session import ray_session
with ray_session():
    ray.put(1)
try:
    ray.put(1)
except ray.exceptions.RaySystemError as error:
    print("raised:", error)
"""


@pytest.mark.slow
@pytest.mark.e2e
def test_ray_call_after_the_session_raises_and_starts_no_ray() -> None:
    """A driver that exits immediately leaves the session while its search still runs in another thread."""
    assert output_of("-P", "-c", AFTER_SESSION).startswith("raised:")


WORKER_PATH = """
import json, ray, sys
from proxytune.tuning.cluster.session import ray_session
with ray_session():
    print(json.dumps(ray.get(ray.remote(lambda: sys.path).remote())))
"""


@pytest.mark.slow
@pytest.mark.e2e
def test_workers_do_not_import_from_the_folder_of_the_driver(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(WORKER_PATH)
    assert str(tmp_path) not in json.loads(output_of("main.py", cwd=tmp_path))


PROCESSES = """
import json, psutil, sys
from proxytune.tuning.cluster.session import ray_session
with ray_session(preload=["proxytune.models.training"]):
    import ray
    started = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    loaded = ray.get(ray.remote(lambda: "proxytune.models.training" in sys.modules).remote())
print(json.dumps([started, loaded]))
"""


@pytest.mark.slow
@pytest.mark.e2e
def test_ray_starts_no_idle_processes_and_workers_preload_modules() -> None:
    started, preloaded = json.loads(output_of("-P", "-c", PROCESSES).splitlines()[-1])
    assert any("raylet" in line for line in started)
    for idle in ("dashboard.py", "monitor.py"):
        assert not any(idle in line for line in started), f"this version of Ray starts {idle}"
    agents = [line for line in started if "dashboard/agent.py" in line]
    assert all("--minimal" in line for line in agents), (
        "the agent of this version of Ray opens a port that a second Ray waits for"
    )
    assert preloaded, "workers of this version of Ray import no modules at startup"
