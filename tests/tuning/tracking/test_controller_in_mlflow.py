"""The events that the controller writes, as shown by MLflow and by Optuna's MLflow storage."""

import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import mlflow
import optuna
import pytest
from optuna.trial import TrialState

from proxytune.tuning.journal.counters import Counters
from proxytune.tuning.journal.events import (
    Confirmed,
    ConfirmedCandidate,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialStarted,
)
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.journal.recovery import open_journal
from proxytune.tuning.report.history import read_history
from proxytune.tuning.report.page import report_page
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.outcome import StudyStatus
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.lease import Lease
from proxytune.tuning.store.steering import cancel_trial, extend, pause
from proxytune.tuning.store.summary import summary
from proxytune.tuning.tracking.mlflow_sync import MlflowSync
from proxytune.tuning.trial.update import TrialUpdate

MEMORY = "train_memory_mib_per_sequence"


class Driver:
    """Runs a study like `run`, without Ray and without training."""

    def __init__(self, spec: StudySpec) -> None:
        self.spec, self.study = spec, begin_study(spec)
        self.lease = Lease(self.study.storage, spec.name)
        self.lease.acquire()
        self.outbox = open_journal(self.study)
        self.controller = StudyController(spec, self.study.optuna, self.study.storage, self.outbox)
        self.controller.reconcile()
        self.outbox.append(
            StudyStarted(study=spec.name, spec=spec.model_dump(mode="json"), budget=self.study.budget)
        )

    def begin(self) -> int:
        assignment = self.controller.next_trial()
        assert assignment is not None
        return assignment.number

    def report(self, number: int, step: int, accuracy: float | None = None, **update: Any) -> bool:
        metrics = None if accuracy is None else {"val_accuracy": accuracy, "val_loss": 1.0, MEMORY: 3.0}
        return self.controller.receive(number, TrialUpdate(step=step, metrics=metrics, **update), {})

    def run(self, accuracy: float) -> int:
        number = self.begin()
        self.report(number, 30, accuracy, outcome="complete")
        return number

    def ship(self, uri: str) -> None:
        sync = MlflowSync(self.study.folder / "outbox", uri, "proxytune")
        while sync.ship():
            sync.acknowledge()
        assert sync.notice is None

    def close(self) -> None:
        self.outbox.append(StudyEnded(status=StudyStatus.FINISHED, summary=summary(self.study)))
        self.outbox.close()
        self.lease.release()


@pytest.fixture
def make_driver(
    make_spec: Callable[..., StudySpec], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Driver]:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    return lambda *assignments: Driver(make_spec("search.stopping.min_steps=10", *assignments))


def test_mlflow_run_shows_each_outcome(make_driver: Callable[..., Driver], uri: str, store: Any) -> None:
    driver = make_driver("search.trials=6")
    best = driver.run(0.9)
    pruned = driver.begin()
    assert driver.report(pruned, 10, 0.1), "the worse trial stops at the rung"
    stopped, diverged, paused = driver.begin(), driver.begin(), driver.begin()
    driver.report(diverged, 3, outcome="diverged", reason="val_loss is nan")
    cancel_trial(driver.study, stopped)
    driver.report(stopped, 4)
    pause(driver.study, on=True)
    driver.report(paused, 5)
    driver.ship(uri)
    runs = store.trials()
    assert {number: (run.info.run_name, run.info.status) for number, run in runs.items()} == {
        best: ("0000 complete", "FINISHED"),
        pruned: ("0001 pruned", "FINISHED"),
        stopped: ("0002 stopped", "KILLED"),
        diverged: ("0003 diverged", "FAILED"),
        paused: ("0004 paused", "SCHEDULED"),
    }
    assert runs[stopped].data.tags["reason"].startswith("stopped by ")
    parent = store.parent()
    assert (parent.info.status, parent.data.tags["state"]) == ("SCHEDULED", "paused")
    assert parent.data.metrics["trials_failed"] == parent.data.metrics["trials_stopped"] == 1
    assert summary(driver.study)["outcomes"]["paused"] == 1
    pause(driver.study, on=False)
    assert driver.begin() == paused
    driver.ship(uri)
    assert (store.parent().info.status, store.trials()[paused].info.run_name) == ("RUNNING", "0004")


def test_gpu_hours_count_fractions_of_a_gpu(make_driver: Callable[..., Driver]) -> None:
    driver = make_driver("search.trials=2")
    driver.controller.hold({"cpu": 2.0, "gpu": 1.0})
    driver.run(0.5)
    driver.controller.pack(gpu_mib=8_000, most=4)
    driver.run(0.6)
    driver.close()
    events = read_events(driver.study.folder / "outbox").events
    started = [event.resources for event in events if isinstance(event, TrialStarted)]
    assert [(used.cpu, used.gpu) for used in started if used] == [(2.0, 1.0), (2.0, 0.25)]
    hour = timedelta(hours=1) // timedelta(milliseconds=1)
    counters = Counters()
    for event in events:
        if isinstance(event, TrialEnded):
            event = event.model_copy(update={"time_ms": event.time_ms + hour})
        counters.fold(event)
    assert counters.counters()["gpu_hours"] == pytest.approx(1.25, abs=0.1)


def test_extended_budget_is_shown_in_mlflow_and_report(
    make_driver: Callable[..., Driver], uri: str, store: Any
) -> None:
    driver = make_driver("search.trials=1", "search.enqueue=[]")
    driver.run(0.5)
    extend(driver.study, 3)
    driver.run(0.6)
    driver.close()
    driver.ship(uri)
    assert "| trials ended | 2 of 3: 2 complete |" in store.parent().data.tags["mlflow.note.content"]
    assert "2 of 3" in report_page(read_history(driver.study.folder / "outbox"))
    second = Driver(driver.spec)  # as `run` with a study file of one trial
    second.run(0.7)
    second.close()
    second.ship(uri)
    assert "| trials ended | 3 of 3: 3 complete |" in store.parent().data.tags["mlflow.note.content"]


def test_confirmation_is_written_to_the_parent_run(
    make_driver: Callable[..., Driver], uri: str, store: Any
) -> None:
    driver = make_driver("search.trials=1")
    number = driver.run(0.5)
    driver.close()
    driver.ship(uri)
    journal = open_journal(driver.study)
    candidate = ConfirmedCandidate(trial=number, seeds={7: 0.4, 8: 0.5}, mean=0.45, low=0.3, high=0.6)
    journal.append(
        Confirmed(objective="val_accuracy", candidates=(candidate,), winner=number, rule="best mean")
    )
    journal.close()
    driver.ship(uri)
    parent = store.parent()
    assert parent.info.status == "FINISHED"
    metrics = parent.data.metrics
    assert [metrics[f"confirmed_val_accuracy_{key}"] for key in ("mean", "low", "high")] == [0.45, 0.3, 0.6]
    assert "7: 0.4, 8: 0.5" in parent.data.tags["mlflow.note.content"]
    assert parent.data.tags["winner_trial"] == str(number)


@pytest.fixture
def tracking_uri(uri: str) -> Iterator[str]:
    """Optuna's MLflow storage reads MLflow's global tracking URI."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    yield uri
    mlflow.set_tracking_uri(before)


def load_from_mlflow(store: Any, name: str) -> optuna.Study:
    from mlflow.optuna.storage import MlflowStorage

    experiment = store.client.get_experiment_by_name("proxytune")
    storage = MlflowStorage(experiment_id=experiment.experiment_id)
    storage._stop_event.set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.load_study(study_name=name, storage=storage)


def test_optuna_reads_the_study_from_mlflow(
    make_driver: Callable[..., Driver], tracking_uri: str, store: Any
) -> None:
    driver = make_driver("search.trials=5", f"search.constraints.{MEMORY}='<= 5'")
    worse, best = driver.run(0.5), driver.run(0.6)
    pruned, diverged = driver.begin(), driver.begin()
    assert driver.report(pruned, 10, 0.1)
    driver.report(diverged, 3, outcome="diverged", reason="val_loss is nan")
    infeasible = driver.begin()
    metrics = {"val_accuracy": 0.99, "val_loss": 1.0, MEMORY: 7.0}
    driver.controller.receive(infeasible, TrialUpdate(step=30, metrics=metrics, outcome="complete"), {})
    driver.close()
    driver.ship(tracking_uri)
    read, original = load_from_mlflow(store, driver.spec.name), driver.study.optuna
    assert read.directions == original.directions
    assert read.best_trial.number == original.best_trial.number == best
    trials = {trial.number: trial for trial in read.get_trials()}
    for trial in original.get_trials():
        assert trials[trial.number].params == trial.params
        assert trials[trial.number].distributions == trial.distributions
        if trial.state == TrialState.COMPLETE:
            assert trials[trial.number].values == trial.values
    assert (trials[diverged].state, trials[worse].value, trials[pruned].value) == (TrialState.FAIL, 0.5, 0.1)


def test_optuna_reads_several_objectives_from_mlflow_without_values(
    make_driver: Callable[..., Driver], tracking_uri: str, store: Any
) -> None:
    """MLflow's storage can read several values only from runs without other metrics."""
    objectives = f"search.objectives={{val_accuracy: maximize, {MEMORY}: minimize}}"
    driver = make_driver("search.trials=1", objectives)
    driver.run(0.5)
    driver.close()
    driver.ship(tracking_uri)
    read = load_from_mlflow(store, driver.spec.name)
    assert read.directions == driver.study.optuna.directions
    assert [trial.params for trial in read.get_trials()] == [
        trial.params for trial in driver.study.optuna.get_trials()
    ]
