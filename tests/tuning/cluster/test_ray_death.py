"""Ray dies while a driver runs: one line, exit code 75, and the next `run` resumes without losing or repeating reports."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxytune.tuning.journal.reading import read_events
from tests.commandline import command, proxytune

STUDY = """
name: small
task: {name: listops-mini, train_examples: 256}
model: {num_layers: 1, embedding_dim: 16, feedforward_dim: 16, num_proxies: 4}
training: {steps: 120, warmup_steps: 6, batch_size: 4, learning_rate: 1e-3, eval_every: 30}
search:
  space: {model.num_proxies: {choice: [2, 4, 8]}}
  stopping: {name: none}
  trials: 2
"""
VICTIMS = ("gcs_server", "raylet")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """Start drivers of the study; they are killed at the end of the test."""
    started = []

    def start_driver() -> "subprocess.Popen[bytes]":
        with open(tmp_path / "log", "ab") as log:
            started.append(
                subprocess.Popen(command("run", "small.yaml"), cwd=tmp_path, stdout=log, stderr=log)
            )
        return started[-1]

    yield start_driver
    for driver in started:
        driver.kill()
        driver.wait()


def ray_processes(driver: int) -> dict[str, int]:
    """Pids of the GCS and the raylet by name, among the children of the driver only."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        pid, _, name = head.partition(" (")
        if int(rest.split()[1]) == driver and name in VICTIMS:
            found[name] = int(pid)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("victims", [VICTIMS, VICTIMS[:1], VICTIMS[1:]], ids="+".join)
@pytest.mark.timeout(1800)
def test_driver_exits_with_one_line_when_ray_dies_and_the_next_run_resumes(
    tmp_path: Path, start: Callable[[], "subprocess.Popen[bytes]"], victims: tuple[str, ...]
) -> None:
    (tmp_path / "small.yaml").write_text(STUDY)
    outbox = tmp_path / "studies" / "small" / "outbox"

    def events(kind: str) -> list[dict]:
        return [event for event in read_events(outbox).events if event.kind == kind]

    driver = start()
    deadline = time.monotonic() + 600
    while len(events("report")) < 2:
        assert driver.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.05)
    processes = ray_processes(driver.pid)
    assert processes.keys() == set(VICTIMS)
    for name in victims:
        os.kill(processes[name], signal.SIGKILL)
    killed = time.monotonic()
    assert driver.wait(300) == 75, (tmp_path / "log").read_text()
    print(f"{'+'.join(victims)} killed: the driver exited after {time.monotonic() - killed:.1f} s")
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    (line,) = [line for line in log.splitlines() if line.startswith("proxytune:")]
    assert "has died" in line
    assert "the same command resumes it" in line
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in processes.values())

    finished = {event.trial for event in events("end") if event.outcome == "complete"}
    attempts = Counter(event.trial for event in events("trial"))
    driver = start()
    assert driver.wait(900) == 0, (tmp_path / "log").read_text()
    ends = Counter((event.trial, event.outcome) for event in events("end"))
    assert all(ends[trial, "complete"] == 1 for trial in range(2))
    assert {outcome for _, outcome in ends} <= {"complete", "interrupted"}
    reports = Counter((event.trial, event.step) for event in events("report"))
    assert reports == {(trial, step): 1 for trial in range(2) for step in range(30, 121, 30)}
    after = Counter(event.trial for event in events("trial"))
    assert all(after[trial] == attempts[trial] for trial in finished)
    stored = json.loads(proxytune("show", "small", "--json", cwd=tmp_path).stdout)
    assert stored["outcomes"] == {"complete": 2}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_driver_exits_with_one_line_when_the_ray_folder_is_deleted(
    tmp_path: Path, start: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    (tmp_path / "small.yaml").write_text(STUDY.replace("steps: 120", "steps: 1200"))
    outbox = tmp_path / "studies" / "small" / "outbox"
    driver = start()
    deadline = time.monotonic() + 900
    while not any(event.kind == "report" for event in read_events(outbox).events):
        assert driver.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    (session,) = Path("/tmp").glob(f"proxytune-*/ray/session_*_{driver.pid}")
    shutil.rmtree(session.parents[1], ignore_errors=True)
    code = driver.wait(900)
    log = (tmp_path / "log").read_text()
    assert code in (0, 75), log
    assert "Traceback" not in log
    assert len([line for line in log.splitlines() if line.startswith("proxytune:")]) == (code == 75), log
