"""Nodes are killed, drained and added while a study runs with PostgreSQL and a real MLflow server.

No trial or report may be lost or duplicated. The test prints its timeline at the end:

    pytest -m slow tests/tuning/cluster/test_node_faults.py
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxytune.tuning.store.steering import extend
from proxytune.tuning.store.study import Study, open_study
from proxytune.tuning.trial.trial_run import TrialRun
from tests.observed_study import ObservedStudy
from tests.tuning.cluster.nodes import RayCluster
from tests.tuning.tracking.servers import MlflowServer, PostgresServer

TRIAL_SECONDS = 15.0


class Keeper(threading.Thread):
    """Extends the study while fewer than four trials remain, so that it outlasts the faults on any machine."""

    def __init__(self, study: Study, num_ended: Callable[[], int]) -> None:
        super().__init__(name="keeper")
        self._study, self._num_ended = study, num_ended
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(1):
            budget = self._num_ended() + 4
            if budget > self._study.budget:
                extend(self._study, budget)

    def stop(self) -> int:
        """Stop extending. Returns the final number of trials."""
        self._over.set()
        self.join()
        budget = self._study.budget
        self._study.storage.engine.dispose()
        return budget


def steps_of_a_trial(make_spec) -> int:
    """Steps that take about TRIAL_SECONDS on this machine under its current load; a multiple of 4."""
    spec = make_spec("training.steps=100000", "training.eval_every=50000").trial({"model.dropout": 0.1})
    run = TrialRun(spec, None)
    run.advance()
    started, before = time.monotonic(), run.step
    run.advance()
    rate = (run.step - before) / (time.monotonic() - started)
    return 4 * max(25, min(2000, int(rate * TRIAL_SECONDS / 4)))


class OnNodes(ObservedStudy):
    """Also reports which trials run on which node."""

    def complete(self) -> set[int]:
        return {event.trial for event in self.completions()}

    def attempts(self) -> Counter:
        return Counter(event.trial for event in self.events("trial"))

    def running_on(self, node) -> list[int]:
        """Trials that have not ended and whose last report came from the node."""
        ended = {event.trial for event in self.events("end")}
        last = {event.trial: event.pid for event in self.events("report")}
        pids = {process.pid for process in node.tree()}
        return [trial for trial, pid in last.items() if trial not in ended and pid in pids]

    def rescheduled(self, trial: int, before: Counter) -> bool:
        """Whether the trial was started again, or has ended."""
        return self.attempts()[trial] > before[trial] or any(
            event.trial == trial for event in self.events("end")
        )

    def departure(self, trial: int, before: Counter) -> str:
        moved = self.attempts()[trial] > before[trial]
        return "moved with a checkpoint" if moved else "completed before it could move"


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[MlflowServer]:
    (tmp_path / "mlflow").mkdir()
    server = MlflowServer(f"sqlite:///{tmp_path}/mlflow/mlflow.db", tmp_path / "mlflow" / "artifacts")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def cluster(postgres: PostgresServer, tmp_path: Path) -> Iterator[RayCluster]:
    """A head without cores; drivers on it have the password of the database."""
    environment = {"PGPASSFILE": str(postgres.passfile), "PROXYTUNE_CACHE": str(tmp_path / "head")}
    running = RayCluster(cpus=0, environment=environment)
    yield running
    running.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_node_faults_and_a_head_restart_lose_and_duplicate_nothing(
    cluster, postgres, mlflow, tool, make_spec, until, tmp_path: Path, record_property
) -> None:
    steps = steps_of_a_trial(make_spec)
    storage = tool.folder / "studies"
    observed = OnNodes(storage / "small" / "outbox")

    def add(name: str):
        return cluster.add(name, environment={"PROXYTUNE_CACHE": str(tmp_path / name)})

    submit = (
        *("submit", "small.yaml", "--address", cluster.dashboard, "--storage", storage),
        *("--set", f"database={postgres.uri}", "--set", f"tracking.uri={mlflow.url}"),
        *("--set", f"training.steps={steps}", "--set", f"training.eval_every={steps // 4}"),
        *("--set", "search.trials=6", "--set", "resources.max_failures=1"),
    )
    first, second = add("a"), add("b")
    done = tool.run(*submit)
    assert done.returncode == 0, done.stderr
    observed.note(f"submitted: trials of {steps} steps, a head without cores, two workers of one core")
    until(lambda: observed.running_on(first) and observed.running_on(second))
    keeper = Keeper(open_study("small", storage, postgres.uri), lambda: len(observed.complete()))
    keeper.start()
    try:
        third = lose_workers(cluster, observed, until, add, first, second)
        completed = observed.complete()
        cluster.head.kill()
        third.kill()
    finally:
        trials = keeper.stop()
    lost = observed.note(f"head and driver killed with SIGKILL; {len(completed)} trials are complete")
    shown = tool.json("show", "small", "--storage", storage, "--database", postgres.uri)
    assert shown["outcomes"].get("complete", 0) >= len(completed)
    cluster.head = cluster.start_head()
    fifth, _ = add("e"), add("f")
    done = tool.run(*submit)
    assert done.returncode == 0, done.stderr
    until(lambda: observed.running_on(fifth))
    observed.note(f"submitted again; first report {time.monotonic() - lost:.1f} s after the kill")
    jobs = ("status", "--address", cluster.dashboard)
    until(lambda: tool.json(*jobs)[0]["status"] not in ("PENDING", "RUNNING"))
    job = tool.json(*jobs)[0]
    assert job["status"] == "SUCCEEDED", job["message"]
    rows = tool.json("trials", "small", "--storage", storage, "--database", postgres.uri)
    check_nothing_lost_or_duplicated(observed, rows, trials, steps)
    check_mlflow(mlflow.url, rows, list(range(steps // 4, steps + 1, steps // 4)))
    for line in observed.timeline:
        record_property("timeline", line)


def lose_workers(cluster, observed: OnNodes, until, add: Callable[[str], Any], first, second) -> Any:
    """Kill a worker node, drain another, end a third with SIGTERM. Returns the remaining worker node."""
    victim, before = until(lambda: observed.running_on(first))[0], observed.attempts()
    killed = observed.note(f"node a killed with SIGKILL while it ran trial {victim}")
    first.kill()
    until(lambda: observed.rescheduled(victim, before))
    observed.note(f"its trial rescheduled {time.monotonic() - killed:.1f} s after the kill")
    third = add("c")
    until(lambda: observed.running_on(third))
    observed.note(f"first report of the added node c {time.monotonic() - killed:.1f} s after the kill")

    moved, before = until(lambda: observed.running_on(second))[0], observed.attempts()
    announced = observed.note(f"removal of node b announced, in 60 s; it runs trial {moved}")
    cluster.drain(second, 60)
    until(lambda: observed.rescheduled(moved, before))
    observed.note(
        f"its trial {observed.departure(moved, before)}, {time.monotonic() - announced:.1f} s after the notice"
    )
    second.kill()

    fourth = add("d")
    moved, before = until(lambda: observed.running_on(fourth))[0], observed.attempts()
    terminated = observed.note(f"SIGTERM sent to node d as to a pod; it runs trial {moved}")
    fourth.terminate()
    until(lambda: observed.rescheduled(moved, before))
    observed.note(
        f"its trial {observed.departure(moved, before)}, {time.monotonic() - terminated:.1f} s after SIGTERM"
    )
    fourth.process.wait(300)
    observed.note(f"node d exited {time.monotonic() - terminated:.1f} s after SIGTERM")
    return third


def check_nothing_lost_or_duplicated(observed: OnNodes, rows: list[dict], trials: int, steps: int) -> None:
    assert Counter(row["outcome"] for row in rows) == {"complete": trials}
    reports = Counter((event.trial, event.step) for event in observed.events("report"))
    points = range(steps // 4, steps + 1, steps // 4)
    assert reports == {(trial, step): 1 for trial in range(trials) for step in points}
    assert Counter(event.trial for event in observed.completions()) == dict.fromkeys(range(trials), 1)
    restarts = sum(observed.attempts().values()) - trials
    observed.note(
        f"{trials} trials complete, {len(reports)} reports without duplicates, {restarts} trial restarts"
    )


def check_mlflow(url: str, rows: list[dict], points: list[int]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=url)
    experiment = client.get_experiment_by_name("proxytune")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    trials = {run.data.tags["trial_key"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert len(runs) == len(trials) + 1
    assert sorted(trials, key=lambda key: int(key.partition("/")[2])) == [
        f"small/{n}" for n in range(len(rows))
    ]
    for row in rows:
        run = trials[f"small/{row['trial']}"]
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "val_loss")
        assert sorted(point.step for point in history) == points, json.dumps(row)
