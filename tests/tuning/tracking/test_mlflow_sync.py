"""The runs in MLflow match the study's journal for every batch size, and after repeated shipping."""

from pathlib import Path
from typing import Any

import pytest

from proxytune.tuning.journal.events import Noted
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import journal_id
from proxytune.tuning.tracking import mlflow_sync as sync_module
from proxytune.tuning.tracking.acknowledgement import last_error
from tests.benchmarks.synthetic import synthetic_events
from tests.tuning.tracking.syncing import STUDY_END, Fill, end, report, start, study, synced


def test_study_is_mirrored_exactly(fill: Fill, outbox_folder: Path, uri: str, store: Any) -> None:
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
def test_run_status_and_tags_follow_the_outcome(
    fill: Fill, outbox_folder: Path, uri: str, store: Any, outcome: str, status: str
) -> None:
    fill([study(), start(0), report(0, 20, val_accuracy=0.5), end(0, outcome, 20, "because")])
    synced(outbox_folder, uri)
    run = store.trials()[0]
    assert (run.info.status, run.info.end_time) == (status, None if status == "SCHEDULED" else 5000)
    assert run.info.run_name == f"0000 {outcome}"
    assert (run.data.tags["outcome"], run.data.tags["reason"]) == (outcome, "because")
    assert run.data.tags["rung"] == "2", "rungs at 5, 15 and 45"


def test_trial_run_has_parameters_tags_config_and_dataset(
    fill: Fill, outbox_folder: Path, uri: str, store: Any, tmp_path: Path
) -> None:
    event = start(42)
    fill([study(), event, report(42, 5, "10.0.0.7", val_accuracy=0.25)])
    synced(outbox_folder, uri)
    run, parent = store.trials()[42], store.parent()
    assert run.info.run_name == "0042", "the outcome is appended at the end"
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


def test_parent_run_has_counts_best_value_spec_log_and_dataset(
    fill: Fill, outbox_folder: Path, uri: str, store: Any, tmp_path: Path
) -> None:
    ends = [end(0, "complete", val_accuracy=0.5), end(1, "pruned", 20, val_accuracy=0.9)]
    log = Noted(time_ms=5500, who="user", text="enqueued trial 2")
    fill([study(), start(0), start(1), *ends, start(2), log, end(2, "complete", val_accuracy=0.6), STUDY_END])
    synced(outbox_folder, uri)
    parent = store.parent()
    metrics = parent.data.metrics
    assert (metrics["trials_complete"], metrics["trials_pruned"], metrics["trials_open"]) == (2, 1, 0)
    assert metrics["best_val_accuracy"] == 0.6, "a pruned trial cannot be the best"
    assert metrics["cpu_hours"] == pytest.approx(3 * 4.0 / 3600)
    assert metrics["steps_trained"] == 220
    assert parent.info.run_name == "study"
    assert (parent.info.start_time, parent.info.end_time) == (900, 6000)
    assert store.artifact(parent, "spec.json", tmp_path / "down") == study().spec
    assert store.artifact(parent, "facts.json", tmp_path / "down") == study().facts
    text = store.artifact(parent, "events.log", tmp_path / "down")
    assert "user: enqueued trial 2" in text
    assert "trial 0001 ends at step 20, pruned" in text
    assert "0.6 (trial 2)" in parent.data.tags["mlflow.note.content"]
    (dataset,) = parent.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("listops-mini", "f" * 36)
    assert "padding" in dataset.dataset.profile


def test_resumed_trial_reopens_its_run(fill: Fill, outbox_folder: Path, uri: str, store: Any) -> None:
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


def test_last_event_of_a_batch_determines_the_run(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    fill([study(), start(0), end(0, "interrupted", 5), start(0, attempt=2)])
    outbox = Outbox(outbox_folder)  # ends attempt 2 as interrupted, since its driver is gone
    outbox.append(start(0, attempt=3))
    synced(outbox_folder, uri)
    outbox.close()
    run = store.trials()[0]
    assert (run.info.status, run.data.tags["attempt"], run.data.tags["outcome"]) == (
        "RUNNING",
        "3",
        "running",
    )


@pytest.mark.parametrize("batch_bytes", [1, 700, 1 << 20])
def test_batch_size_does_not_change_the_result(
    monkeypatch: pytest.MonkeyPatch, fill: Fill, outbox_folder: Path, uri: str, store: Any, batch_bytes: int
) -> None:
    monkeypatch.setattr(sync_module, "BATCH_BYTES", batch_bytes)
    fill(synthetic_events(3, steps=100, seed=2))
    synced(outbox_folder, uri)
    assert store.differences(outbox_folder) == {}
    assert store.parent().data.metrics["trials_open"] == 0


def test_studies_with_the_same_name_have_separate_runs(tmp_path: Path, uri: str, store: Any) -> None:
    """Two folders of studies ship to the same experiment."""
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
        "experiment proxytune contains another study named study; the runs of this one have the tag "
        f"study_id={identifier}, or give it another name or experiment",
    ]
    runs = store.runs()
    assert len(runs) == 4
    assert len({run.data.tags["study_id"] for run in runs}) == 2
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_second_destination_receives_the_complete_journal(
    fill: Fill, outbox_folder: Path, uri: str, tmp_path: Path, empty_mlflow_database: Path, make_store: Any
) -> None:
    fill(synthetic_events(5, steps=100, seed=3))
    synced(outbox_folder, uri)
    other = tmp_path / "other" / "mlflow.db"
    other.parent.mkdir()
    other.write_bytes(empty_mlflow_database.read_bytes())
    synced(outbox_folder, f"sqlite:///{other}")
    assert make_store(f"sqlite:///{other}").differences(outbox_folder) == {}


def test_nan_infinity_and_long_reasons_are_shipped(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    metrics = {"nan": float("nan"), "inf": float("inf")}
    fill([study(), start(0), report(0, 5, **metrics), end(0, "failed", 5, "x" * 20_000)])
    sync = synced(outbox_folder, uri)
    assert sync.notice is None
    run = store.trials()[0]
    assert run.data.metrics["nan"] != run.data.metrics["nan"]
    assert run.data.metrics["inf"] > 1e308
    assert run.data.tags["reason"].startswith("xxx")


def test_parent_run_has_the_report_page(
    fill: Fill, outbox_folder: Path, uri: str, store: Any, tmp_path: Path
) -> None:
    fill(synthetic_events(6, steps=400))
    assert synced(outbox_folder, uri).notice is None
    page = store.artifact(store.parent(), "report.html", tmp_path / "down")
    assert "Timeline of trials on workers" in page
