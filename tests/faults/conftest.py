"""Studies as a user runs them, one fault each, and what came of it, kept for docs/FAULTS.md."""

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

from tests.watched import Watched

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

SHIFTED = """
import os, time
real, real_ns = time.time, time.time_ns
def shift():
    return float(open(os.environ["CLOCK"]).read()) * 86400
time.time = lambda: real() + shift()
time.time_ns = lambda: real_ns() + int(shift() * 1e9)
"""
"""The driver's clock, days ahead as the file $CLOCK says. (Ray itself does not start under libfaketime.)"""
MAIN = "from proxytune.tuning.cli import main; main()"


class Study(Watched):
    """One study in a folder: started, watched by its journal, gone on with."""

    def __init__(self, folder: Path, text: str = STUDY) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "small.yaml").write_text(text)
        self.storage = folder / "studies"
        super().__init__(self.storage / "small" / "outbox")
        self.log = folder / "log"
        self.drivers: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: object, before: str = "", **environment: str) -> "subprocess.Popen[bytes]":
        """`proxytune run`; `before` is Python that the driver runs first."""
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
        """Go on until the study is done; the seconds that took."""
        began = time.monotonic()
        assert self.start(*arguments, **environment).wait(seconds) == 0, self.said()
        return time.monotonic() - began

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def wait(
        self,
        condition: Callable[[], Any],
        driver: "subprocess.Popen[bytes] | None" = None,
        seconds: float = 600,
    ) -> float:
        """Until the condition holds; the driver must live meanwhile."""
        began = time.monotonic()
        while not condition():
            assert driver is None or driver.poll() is None, self.said()
            assert time.monotonic() - began < seconds, self.said()
            time.sleep(0.05)
        return time.monotonic() - began

    def lost_and_doubled(self) -> dict[str, int]:
        """Against what an unbroken study holds: ends and reports that lack, and those that are there twice."""
        ends = Counter(event.trial for event in self.completions())
        reports = Counter((event.trial, event.step) for event in self.events("report"))
        expected = {(trial, step) for trial in range(TRIALS) for step in range(EVERY, STEPS + 1, EVERY)}
        return {
            "lost": len(expected - reports.keys()) + len(set(range(TRIALS)) - ends.keys()),
            "doubled": sum(reports.values()) - len(reports) + sum(ends.values()) - len(ends),
        }

    def kill(self) -> None:
        """End exactly the sessions that were started here."""
        for driver in self.drivers:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
                driver.wait()


@pytest.fixture(autouse=True)
def _cache(data_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYTUNE_CACHE", str(data_cache))


@pytest.fixture
def make_study(tmp_path: Path) -> Iterator[Callable[..., Study]]:
    made: list[Study] = []

    def make(name: str = "a", text: str = STUDY) -> Study:
        made.append(Study(tmp_path / name, text))
        return made[-1]

    yield make
    for study in made:
        study.kill()


@pytest.fixture
def shifted() -> str:
    """What a driver runs first so that its clock is days ahead, as the file $CLOCK says."""
    return SHIFTED


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Study:
    return make_study()


def points(uri: str) -> tuple[set[tuple[str, str, int]], int]:
    """(trial, metric, step) of every point that MLflow holds, and how many are there twice."""
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
    """What MLflow holds: `points`."""
    return points


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep a row of the fault table: only after every assertion of the test."""

    def keep(
        fault: str,
        *,
        injected: int,
        lost: int,
        doubled: int,
        seconds: float | None,
        seen: str,
        part: str = "",
    ) -> None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        row = {
            "fault": fault,
            "injected": injected,
            "lost": lost,
            "doubled": doubled,
            "seconds": None if seconds is None else round(seconds, 1),
            "seen": seen,
            "test": request.node.nodeid,
            "date": time.strftime("%Y-%m-%d"),
            "cpus": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
        }
        name = re.sub(r"[^\w.-]+", "-", f"{request.node.name} {part}".strip())
        (RESULTS / f"{name}.json").write_text(json.dumps(row, indent=2))

    return keep
