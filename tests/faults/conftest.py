"""A study run by its command under one fault, and the recorded results, from which docs/FAULTS.md is generated."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.observed_study import ObservedStudy

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "build" / "faults"
STEPS, EVERY, TRIALS = 200, 50, 3
STUDY = f"""
name: small
task: {{name: listops-mini, train_examples: 256}}
model: {{num_layers: 1, embedding_dim: 16, feedforward_dim: 16, num_proxies: 4}}
training: {{steps: {STEPS}, warmup_steps: 6, batch_size: 8, learning_rate: 1e-3, eval_every: {EVERY}}}
search:
  space:
    model.num_proxies: {{choice: [2, 4, 8]}}
    model.dropout: {{low: 0.0, high: 0.3}}
  stopping: {{name: none}}
  trials: {TRIALS}
"""

SHIFTED_CLOCK = """
import os, time
real, real_ns = time.time, time.time_ns
def shift():
    return float(open(os.environ["CLOCK"]).read()) * 86400
time.time = lambda: real() + shift()
time.time_ns = lambda: real_ns() + int(shift() * 1e9)
"""
"""Moves the driver's clock ahead by the number of days in the file $CLOCK. (Ray does not start under libfaketime.)"""
MAIN = "from proxytune.tuning.cli import main; main()"


class Study(ObservedStudy):
    """A study in a folder, with methods that start or resume it and wait for events in its journal."""

    def __init__(self, folder: Path, text: str = STUDY) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "small.yaml").write_text(text)
        self.storage = folder / "studies"
        super().__init__(self.storage / "small" / "outbox")
        self.log = folder / "log"
        self.drivers: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: object, before: str = "", **environment: str) -> "subprocess.Popen[bytes]":
        """Start `proxytune run`; `before` is Python code that the driver executes first."""
        with self.log.open("ab") as log:
            driver = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-c", before + MAIN),
                    *("run", "small.yaml", "--json", *map(str, arguments)),
                ],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
                start_new_session=True,
            )
        self.drivers.append(driver)
        return driver

    def finish(self, *arguments: object, seconds: float = 900, **environment: str) -> float:
        """Resume the study and wait until it is finished. Returns the seconds this took."""
        began = time.monotonic()
        assert self.start(*arguments, **environment).wait(seconds) == 0, self.log_tail()
        return time.monotonic() - began

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def wait(
        self,
        condition: Callable[[], Any],
        driver: "subprocess.Popen[bytes] | None" = None,
        seconds: float = 600,
    ) -> float:
        """Wait until the condition is true; fails if the driver ends before. Returns the seconds this took."""
        began = time.monotonic()
        while not condition():
            assert driver is None or driver.poll() is None, self.log_tail()
            assert time.monotonic() - began < seconds, self.log_tail()
            time.sleep(0.05)
        return time.monotonic() - began

    def lost_and_duplicated(self) -> dict[str, int]:
        """How many reports and ends are lost or duplicated in the journal, compared with an undisturbed study."""
        ends = Counter(event.trial for event in self.completions())
        reports = Counter((event.trial, event.step) for event in self.events("report"))
        expected = {(trial, step) for trial in range(TRIALS) for step in range(EVERY, STEPS + 1, EVERY)}
        return {
            "lost": len(expected - reports.keys()) + len(set(range(TRIALS)) - ends.keys()),
            "duplicated": sum(reports.values()) - len(reports) + sum(ends.values()) - len(ends),
        }

    def kill(self) -> None:
        """Kill the sessions started by this object."""
        for driver in self.drivers:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
                driver.wait()


@pytest.fixture(autouse=True)
def _cache(data_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYTUNE_CACHE", str(data_cache))


@pytest.fixture
def make_study(tmp_path: Path) -> Iterator[Callable[..., Study]]:
    studies: list[Study] = []

    def make(name: str = "a", text: str = STUDY) -> Study:
        studies.append(Study(tmp_path / name, text))
        return studies[-1]

    yield make
    for study in studies:
        study.kill()


@pytest.fixture
def shifted_clock() -> str:
    """Code that moves the driver's clock ahead by the number of days in the file $CLOCK."""
    return SHIFTED_CLOCK


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Study:
    return make_study()


def points(uri: str) -> tuple[set[tuple[str, str, int]], int]:
    """(trial, metric, step) of every point in MLflow, and the number of duplicates."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("proxytune")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=50_000)
    found: Counter[tuple[str, str, int]] = Counter()
    for run in runs:
        if "mlflow.parentRunId" in run.data.tags:
            for metric in run.data.metrics:
                for point in client.get_metric_history(run.info.run_id, metric):
                    found[run.data.tags["trial_key"], metric, point.step] += 1
    return set(found), sum(found.values()) - len(found)


@pytest.fixture
def mlflow_points() -> Callable[[str], tuple[set[tuple[str, str, int]], int]]:
    """The function `points`."""
    return points


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Saves a row of the fault table. To be called after the last assertion of the test."""

    def save(
        fault: str,
        *,
        injected: int,
        lost: int,
        duplicated: int,
        seconds: float | None,
        result: str,
        part: str = "",
    ) -> None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        row = {
            "fault": fault,
            "injected": injected,
            "lost": lost,
            "duplicated": duplicated,
            "seconds": None if seconds is None else round(seconds, 1),
            "result": result,
            "test": request.node.nodeid,
            "date": time.strftime("%Y-%m-%d"),
            "cpus": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
        }
        name = re.sub(r"[^\w.-]+", "-", f"{request.node.name} {part}".strip())
        (RESULTS / f"{name}.json").write_text(json.dumps(row, indent=2))

    return save
