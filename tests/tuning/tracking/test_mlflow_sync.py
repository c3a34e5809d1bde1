"""A study's journal becomes exactly the runs that it describes, however the shipping is cut up or repeated."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from proxytune.tuning.journal.events import (
    Event,
    Noted,
    Reported,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialStarted,
)
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import journal_id
from proxytune.tuning.spec.outcome import Outcome, StudyStatus
from proxytune.tuning.tracking import mlflow_sync as mirror_module
from proxytune.tuning.tracking.acknowledgement import last_error
from proxytune.tuning.tracking.mlflow_runs import Blocked
from proxytune.tuning.tracking.mlflow_sync import MlflowSync
from tests.benchmarks.synthetic import synthetic_events, synthetic_spec

Fill = Callable[[Iterable[Event]], None]


def synced(outbox_folder: Path, uri: str) -> MlflowSync:
    """Ship everything that waits."""
    sync = MlflowSync(outbox_folder, uri, "proxytune")
    while sync.ship():
        sync.acknowledge()
    return sync


def start(number: int, attempt: int = 1, **more: Any) -> TrialStarted:
    params = {"model.num_proxies": 128, "model.contrastive_temperature": 0.07, "model.dropout": 0.1}
    config = {"model": params, "training": {"steps": 100}}
    return TrialStarted(time_ms=1000, trial=number, params=params, config=config, attempt=attempt, **more)


def report(number: int, step: int, node: str | None = None, **metrics: float) -> Event:
    return Reported(time_ms=1000 + step, trial=number, step=step, metrics=metrics, node=node)


def end(number: int, outcome: str, step: int = 100, reason: str = "", **metrics: float) -> Event:
    return TrialEnded(
        time_ms=5000, trial=number, outcome=Outcome(outcome), reason=reason, step=step, metrics=metrics
    )


def study(name: str = "study", **more: Any) -> StudyStarted:
    spec = synthetic_spec(name, 4, steps=100)
    facts = {"git_revision": "abc", "data_fingerprint": "f" * 64, "conventions": {"padding": "0"}}
    return StudyStarted(time_ms=900, study=name, spec=spec, facts=facts, **more)


STUDY_END = StudyEnded(time_ms=6000, status=StudyStatus.FINISHED)


def test_a_whole_study_is_mirrored_exactly(fill: Fill, outbox_folder: Path, uri: str, store: Any) -> None:
    fill(synthetic_events(12, steps=400, seed=1))
    synced(outbox_folder, uri)
    assert store.differences(outbox_folder) == {}
    assert len(store.trials()) == 12
    assert store.parent().info.status == "FINISHED"


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("complete", "FINISHED"),
        ("pruned", "FINISHED"),
        ("diverged", "FAILED"),
        ("out_of_memory", "FAILED"),
        ("failed", "FAILED"),
        ("stopped", "KILLED"),
        ("interrupted", "SCHEDULED"),
        ("paused", "SCHEDULED"),
    ],
)
def test_how_a_trial_ended_is_seen(
    fill: Fill, outbox_folder: Path, uri: str, store: Any, outcome: str, status: str
) -> None:
    fill([study(), start(0), report(0, 20, val_accuracy=0.5), end(0, outcome, 20, "because")])
    synced(outbox_folder, uri)
    run = store.trials()[0]
    assert (run.info.status, run.info.end_time) == (status, None if status == "SCHEDULED" else 5000)
    assert run.info.run_name == f"0000 {outcome}"
    assert (run.data.tags["outcome"], run.data.tags["reason"]) == (outcome, "because")
    assert run.data.tags["rung"] == "2", "rungs at 5, 15 and 45"


def test_a_run_says_what_it_is(fill: Fill, outbox_folder: Path, uri: str, store: Any, tmp_path: Path) -> None:
    event = start(42)
    fill([study(), event, report(42, 5, "10.0.0.7", val_accuracy=0.25)])
    synced(outbox_folder, uri)
    run, parent = store.trials()[42], store.parent()
    assert run.info.run_name == "0042", "the outcome follows"
    assert run.info.start_time == 1000
    assert run.info.status == "RUNNING"
    assert run.data.params["model.contrastive_temperature"] == "0.07"
    assert run.data.params["training.steps"] == "100"
    tags = run.data.tags
    assert tags["trial_key"] == "study/42"
    assert tags["mlflow.parentRunId"] == parent.info.run_id
    assert (tags["outcome"], tags["attempt"], tags["node"]) == ("running", "1", "10.0.0.7")
    assert "`val_accuracy`" in tags["mlflow.note.content"]
    assert store.artifact(run, "config.json", tmp_path / "down") == event.config
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("listops-mini", "f" * 36)


def test_the_parent_says_what_the_study_is(
    fill: Fill, outbox_folder: Path, uri: str, store: Any, tmp_path: Path
) -> None:
    ends = [end(0, "complete", val_accuracy=0.5), end(1, "pruned", 20, val_accuracy=0.9)]
    log = Noted(time_ms=5500, who="somebody", text="enqueued trial 2")
    fill([study(), start(0), start(1), *ends, start(2), log, end(2, "complete", val_accuracy=0.6), STUDY_END])
    synced(outbox_folder, uri)
    parent = store.parent()
    metrics = parent.data.metrics
    assert (metrics["trials_complete"], metrics["trials_pruned"], metrics["trials_open"]) == (2, 1, 0)
    assert metrics["best_val_accuracy"] == 0.6, "a pruned trial is no winner"
    assert metrics["cpu_hours"] == pytest.approx(3 * 4.0 / 3600)
    assert metrics["steps_trained"] == 220
    assert parent.info.run_name == "study"
    assert (parent.info.start_time, parent.info.end_time) == (900, 6000)
    assert store.artifact(parent, "spec.json", tmp_path / "down") == study().spec
    assert store.artifact(parent, "facts.json", tmp_path / "down") == study().facts
    text = store.artifact(parent, "events.log", tmp_path / "down")
    assert "somebody: enqueued trial 2" in text
    assert "trial 0001 ends at step 20, pruned" in text
    assert "0.6 (trial 2)" in parent.data.tags["mlflow.note.content"]
    (dataset,) = parent.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("listops-mini", "f" * 36)
    assert "padding" in dataset.dataset.profile


def test_an_interrupted_trial_reopens_its_run(fill: Fill, outbox_folder: Path, uri: str, store: Any) -> None:
    fill([study(), start(0), report(0, 5, val_accuracy=0.1), end(0, "interrupted", 5, "SIGINT")])
    synced(outbox_folder, uri)
    first = store.trials()[0].info.run_id
    fill([start(0, attempt=2), report(0, 10, val_accuracy=0.2)])
    synced(outbox_folder, uri)
    run = store.trials()[0]
    assert (run.info.run_id, run.info.status, run.data.tags["attempt"]) == (first, "RUNNING", "2")
    fill([end(0, "complete", val_accuracy=0.3)])
    synced(outbox_folder, uri)
    run = store.trials()[0]
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "complete")
    assert store.differences(outbox_folder) == {}


def test_the_last_word_in_one_portion_counts(fill: Fill, outbox_folder: Path, uri: str, store: Any) -> None:
    fill([study(), start(0), end(0, "interrupted", 5), start(0, attempt=2)])
    outbox = Outbox(outbox_folder)  # interrupts attempt 2, which nobody runs
    outbox.append(start(0, attempt=3))
    synced(outbox_folder, uri)
    outbox.close()
    run = store.trials()[0]
    assert (run.info.status, run.data.tags["attempt"], run.data.tags["outcome"]) == (
        "RUNNING",
        "3",
        "running",
    )


@pytest.mark.parametrize("portion_bytes", [1, 700, 1 << 20])
def test_portions_do_not_show(
    monkeypatch: pytest.MonkeyPatch, fill: Fill, outbox_folder: Path, uri: str, store: Any, portion_bytes: int
) -> None:
    monkeypatch.setattr(mirror_module, "BATCH_BYTES", portion_bytes)
    fill(synthetic_events(3, steps=100, seed=2))
    synced(outbox_folder, uri)
    assert store.differences(outbox_folder) == {}
    assert store.parent().data.metrics["trials_open"] == 0


class Faulty:
    """An MLflow client whose calls fail at random: before they reach MLflow, or after, when MLflow has done them."""

    def __init__(self, client: Any, chance: random.Random, share: float) -> None:
        self._client, self._chance, self._share = client, chance, share

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def faulty(*args: Any, **kwargs: Any) -> Any:
            luck = self._chance.random()
            if luck < self._share / 2:
                raise ConnectionError("never sent")
            answer = call(*args, **kwargs)
            if luck < self._share:
                raise ConnectionError("the answer was lost")
            return answer

        return faulty


@pytest.mark.parametrize("seed", range(4))
def test_failing_calls_lose_and_double_nothing(
    monkeypatch: pytest.MonkeyPatch, fill: Fill, outbox_folder: Path, uri: str, store: Any, seed: int
) -> None:
    """One call in ten fails; every failure drops the process's memory with even odds, as a kill would."""
    monkeypatch.setattr(mirror_module, "BATCH_BYTES", 1500)
    chance = random.Random(seed)
    fill(synthetic_events(8, steps=100, seed=seed))
    failures = 0
    sync: MlflowSync | None = None
    for _ in range(2000):
        if sync is None:
            sync = MlflowSync(outbox_folder, uri, "proxytune")
            sync._runs.client = Faulty(sync._runs.client, chance, 0.1)  # type: ignore[assignment]
        try:
            if not sync.ship():
                break
            if chance.random() < 0.8:  # else killed before the acknowledgement
                sync.acknowledge()
            else:
                sync = None
        except ConnectionError:
            failures += 1
            if chance.random() < 0.5:
                sync = None
    assert failures > 5
    assert store.differences(outbox_folder) == {}
    assert store.parent().data.metrics["trials_open"] == 0


def test_a_lost_acknowledgement_makes_no_second_run(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    fill([study(), start(0), report(0, 5, val_accuracy=0.5), end(0, "complete", val_accuracy=0.5), start(1)])
    synced(outbox_folder, uri)
    before = {run.info.run_id for run in store.runs()}
    (acknowledgement,) = outbox_folder.glob("acknowledged-*.json")
    acknowledgement.unlink()
    synced(outbox_folder, uri)
    assert {run.info.run_id for run in store.runs()} == before
    fill([end(1, "complete", val_accuracy=0.1), STUDY_END])
    synced(outbox_folder, uri)
    assert store.differences(outbox_folder) == {}


def test_a_creation_that_lands_late_leaves_no_twin(
    monkeypatch: pytest.MonkeyPatch, fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    """A client gives up on a slow server, makes the run again, and then the server carries out the first creation."""
    fill([study(), start(0), report(0, 5, val_accuracy=0.5)])
    sync = MlflowSync(outbox_folder, uri, "proxytune")
    client = sync._runs.client
    late: list[Callable[[], Any]] = []
    create = client.create_run

    def slow(*args: Any, **kwargs: Any) -> Any:
        if len(late) < 2 and kwargs.get("run_name") != "study" and "study" not in args:
            late.append(lambda: create(*args, **kwargs))
            raise TimeoutError("no answer")
        return create(*args, **kwargs)

    monkeypatch.setattr(client, "create_run", slow)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            sync.ship()
    assert sync.ship()
    sync.acknowledge()
    for land in late:
        land()
    assert store.differences(outbox_folder)["runs doubled"] == 2
    sync.remove_twins()
    fill([end(0, "complete", val_accuracy=0.6), STUDY_END])
    synced(outbox_folder, uri)
    assert store.differences(outbox_folder) == {}


def test_a_deleted_experiment_blocks_with_advice_and_recovers(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    fill([study(), start(0)])
    synced(outbox_folder, uri)
    identifier = store.client.get_experiment_by_name("proxytune").experiment_id
    store.client.delete_experiment(identifier)
    fill(
        [start(0, attempt=2), report(0, 5, val_accuracy=0.5), end(0, "complete", val_accuracy=0.5), STUDY_END]
    )
    with pytest.raises(Blocked, match=rf"restore --experiment-id {identifier}"):
        synced(outbox_folder, uri)
    store.client.restore_experiment(identifier)
    synced(outbox_folder, uri)
    assert store.differences(outbox_folder) == {}


def test_a_run_that_somebody_deleted_stays_away_and_is_told(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    fill([study(), start(0), start(1)])
    synced(outbox_folder, uri)
    store.client.delete_run(store.trials()[0].info.run_id)
    outbox = Outbox(outbox_folder)
    for number in (0, 1):
        outbox.append(start(number, attempt=2))
        outbox.append(end(number, "complete", val_accuracy=0.5))
    outbox.close()
    sync = synced(outbox_folder, uri)
    assert sync.notice is not None
    assert "trial 0" in sync.notice
    assert {number: run.info.status for number, run in store.trials().items()} == {1: "FINISHED"}


def test_two_studies_of_one_name_stay_apart(tmp_path: Path, uri: str, store: Any) -> None:
    """From two folders of studies into one experiment."""
    notices = []
    for storage in ("first", "second"):
        folder = tmp_path / storage / "study" / "outbox"
        outbox = Outbox(folder)
        for event in (study(), start(0), end(0, "complete", val_accuracy=0.5), STUDY_END):
            outbox.append(event)
        outbox.close()
        synced(folder, uri)
        notices.append(last_error(folder, uri, "proxytune"))
        identifier = journal_id(folder)
    assert notices == [
        None,
        "experiment proxytune holds another study named study; the runs of this one have the tag "
        f"study_id={identifier}, or give it another name or experiment",
    ]
    runs = store.runs()
    assert len(runs) == 4
    assert len({run.data.tags["study_id"] for run in runs}) == 2
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_second_destination_gets_everything(
    fill: Fill, outbox_folder: Path, uri: str, tmp_path: Path, empty_database: Path, make_store: Any
) -> None:
    fill(synthetic_events(5, steps=100, seed=3))
    synced(outbox_folder, uri)
    other = tmp_path / "other" / "mlflow.db"
    other.parent.mkdir()
    other.write_bytes(empty_database.read_bytes())
    synced(outbox_folder, f"sqlite:///{other}")
    assert make_store(f"sqlite:///{other}").differences(outbox_folder) == {}


def test_odd_values_pass(fill: Fill, outbox_folder: Path, uri: str, store: Any) -> None:
    odd = {"nan": float("nan"), "inf": float("inf")}
    fill([study(), start(0), report(0, 5, **odd), end(0, "failed", 5, "x" * 20_000)])
    sync = synced(outbox_folder, uri)
    assert sync.notice is None
    run = store.trials()[0]
    assert run.data.metrics["nan"] != run.data.metrics["nan"]
    assert run.data.metrics["inf"] > 1e308
    assert run.data.tags["reason"].startswith("xxx")


def test_mlflow_refusing_one_metric_name_stops_nothing(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    bad = {"no|such": 1.0}
    fill([study(), start(0), report(0, 5, **bad), start(1), end(1, "complete", val_accuracy=0.5)])
    sync = synced(outbox_folder, uri)
    assert sync.notice is not None
    assert "trial 0" in sync.notice
    assert store.trials()[1].info.status == "FINISHED"


def test_mlflow_error_codes_are_what_we_take_them_for() -> None:
    """`REFUSALS` names codes as text; MLflow must know them."""
    for code in mirror_module.REFUSALS:
        from mlflow.protos.databricks_pb2 import ErrorCode

        assert MlflowException("x", ErrorCode.Value(code)).error_code == code


def test_the_parent_run_has_the_report(
    fill: Fill, outbox_folder: Path, uri: str, store: Any, tmp_path: Path
) -> None:
    fill(synthetic_events(6, steps=400))
    assert synced(outbox_folder, uri).notice is None
    page = store.artifact(store.parent(), "report.html", tmp_path / "down")
    assert "Timeline of trials on workers" in page
