"""Nodes that die, leave and come while a study runs on PostgreSQL and a real MLflow server: nothing lost, nothing twice.

pytest -m slow tests/tuning/cluster/test_node_faults.py    (prints its timeline at the end)
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from proxytune.tuning.store.steering import extend
from proxytune.tuning.store.study import Study, open_study
from proxytune.tuning.trial.trial_run import TrialRun

TRIAL_SECONDS = 15.0


class Keeper(threading.Thread):
    """Extends the study whenever fewer than four trials are left, so that it outlives the faults on any machine."""

    def __init__(self, study: Study, num_ended: Callable[[], int]) -> None:
        super().__init__(name="keeper")
        self._study, self._num_ended = study, num_ended
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(1):
            wanted = self._num_ended() + 4
            if wanted > self._study.budget:
                extend(self._study, wanted)

    def stop(self) -> int:
        """The number of trials in the end."""
        self._over.set()
        self.join()
        budget = self._study.budget
        self._study.storage.engine.dispose()
        return budget


def steps_of_a_trial(make_spec) -> int:
    """So many that a trial takes TRIAL_SECONDS on this machine as it is now; a multiple of 4."""
    spec = make_spec("training.steps=100000", "training.eval_every=50000").trial({"model.dropout": 0.1})
    run = TrialRun(spec, None)
    run.advance()
    started, before = time.monotonic(), run.step
    run.advance()
    rate = (run.step - before) / (time.monotonic() - started)
    return 4 * max(25, min(2000, int(rate * TRIAL_SECONDS / 4)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_node_killed_one_drained_one_ended_as_a_pod_two_added_and_the_head_restarted(
    nodes, servers, tool, make_spec, until, tmp_path: Path, monkeypatch, record_property
) -> None:
    binaries = servers.postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL here")
    steps = steps_of_a_trial(make_spec)
    database = servers.PostgresServer(binaries)
    (tmp_path / "mlflow").mkdir()
    mlflow = servers.MlflowServer(f"sqlite:///{tmp_path}/mlflow/mlflow.db", tmp_path / "mlflow" / "artifacts")
    cluster = keeper = None
    began = time.monotonic()
    timeline: list[str] = []

    def note(what: str) -> float:
        timeline.append(f"{time.monotonic() - began:7.1f} s  {what}")
        print(timeline[-1], flush=True)
        return time.monotonic()

    try:
        mlflow.start()
        passwords = {"PGPASSFILE": str(database.passfile)}
        head_environment = passwords | {"PROXYTUNE_CACHE": str(tmp_path / "head")}
        cluster = nodes.RayCluster(cpus=0, environment=head_environment)

        def add(name: str):
            return cluster.add(name, environment={"PROXYTUNE_CACHE": str(tmp_path / name)})

        first, second = add("a"), add("b")
        tool.environment |= passwords
        monkeypatch.setenv("PGPASSFILE", passwords["PGPASSFILE"])
        storage = tool.folder / "studies"
        submit = (
            *("submit", "small.yaml", "--address", cluster.dashboard, "--storage", storage),
            *("--set", f"database={database.uri}", "--set", f"tracking.uri={mlflow.url}"),
            *("--set", f"training.steps={steps}", "--set", f"training.eval_every={steps // 4}"),
            *("--set", "search.trials=6", "--set", "resources.max_failures=1"),
        )
        done = tool.run(*submit)
        assert done.returncode == 0, done.stderr
        note(f"submitted: trials of {steps} steps, a head without cores, two workers of one core")

        def reports() -> list[dict]:
            return tool.events("small", "report")

        def completions() -> list[dict]:
            return [event for event in tool.events("small", "end") if event.outcome == "complete"]

        def attempts() -> Counter:
            return Counter(event.trial for event in tool.events("small", "trial"))

        def pid_of(node) -> set[int]:
            return {process.pid for process in node.tree()}

        def running_on(node) -> list[int]:
            """Trials whose last report came from the node, and that have not ended."""
            ended = {event.trial for event in tool.events("small", "end")}
            last = {event.trial: event.pid for event in reports()}
            return [trial for trial, pid in last.items() if trial not in ended and pid in pid_of(node)]

        def again(trial: int, before: Counter) -> bool:
            return attempts()[trial] > before[trial] or any(
                event.trial == trial for event in tool.events("small", "end")
            )

        def left(trial: int, before: Counter) -> str:
            gone = attempts()[trial] > before[trial]
            return "has left it with a checkpoint" if gone else "was complete before it could leave"

        until(lambda: running_on(first) and running_on(second))
        note("both workers have reported")

        keeper = Keeper(
            open_study("small", storage, database.uri), lambda: len({e["trial"] for e in completions()})
        )
        keeper.start()
        victim, before = until(lambda: running_on(first))[0], attempts()
        killed = note(f"node a killed with -9; it ran trial {victim}")
        first.kill()
        until(lambda: again(victim, before))
        note(f"its trial is given out again, {time.monotonic() - killed:.1f} s after the kill")
        third = add("c")
        note("node c added")
        until(lambda: running_on(third))
        note(f"node c has reported, {time.monotonic() - killed:.1f} s after the kill")

        moved, before = until(lambda: running_on(second))[0], attempts()
        asked = note(f"node b is told that it will be taken away in 60 s; it runs trial {moved}")
        cluster.drain(second, 60)
        until(lambda: again(moved, before))
        note(f"its trial {left(moved, before)}, {time.monotonic() - asked:.1f} s after the notice")
        second.kill()
        fourth = add("d")
        note("node b is gone, node d added")
        moved, before = until(lambda: running_on(fourth))[0], attempts()
        asked = note(f"node d gets SIGTERM as a pod does; it runs trial {moved}")
        fourth.terminate()
        until(lambda: again(moved, before))
        note(f"its trial {left(moved, before)}, {time.monotonic() - asked:.1f} s after SIGTERM")
        fourth.process.wait(300)
        note(f"node d has ended by itself, {time.monotonic() - asked:.1f} s after SIGTERM")

        completed = {event.trial for event in completions()}
        cluster.head.kill()
        third.kill()
        trials = keeper.stop()
        lost = note(
            f"the head is killed with -9, and with it the driver; {len(completed)} trials are complete"
        )
        shown = tool.json("show", "small", "--storage", storage, "--database", database.uri)
        assert shown["outcomes"].get("complete", 0) >= len(completed)
        cluster.head = cluster.start_head()
        fifth, _ = add("e"), add("f")
        note("a new head and two new workers are up")
        done = tool.run(*submit)
        assert done.returncode == 0, done.stderr
        until(lambda: running_on(fifth))
        note(
            f"submitted again; the first report is {time.monotonic() - lost:.1f} s after the head was killed"
        )
        until(
            lambda: (
                tool.json("status", "--address", cluster.dashboard)[0]["status"] not in ("PENDING", "RUNNING")
            )
        )
        note("the job has ended")

        job = tool.json("status", "--address", cluster.dashboard)[0]
        assert job["status"] == "SUCCEEDED", job["message"]
        rows = tool.json("trials", "small", "--storage", storage, "--database", database.uri)
        assert Counter(row["outcome"] for row in rows) == {"complete": trials}
        told = Counter((event.trial, event.step) for event in reports())
        points = range(steps // 4, steps + 1, steps // 4)
        assert told == {(trial, step): 1 for trial in range(trials) for step in points}
        ends = Counter((e["trial"], e["outcome"]) for e in tool.events("small", "end"))
        assert all(ends[trial, "complete"] == 1 for trial in range(trials))
        repeated = sum(attempts().values()) - trials
        note(
            f"{trials} trials complete, {len(told)} reports each told once, {repeated} times a trial was given out again"
        )
        check_mlflow(mlflow.url, rows, list(points))
        note("MLflow has one finished run a trial with every report")
    finally:
        if keeper is not None:
            keeper.stop()
        if cluster is not None:
            cluster.close()
        mlflow.stop()
        database.close()
        for line in timeline:
            record_property("timeline", line)


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
