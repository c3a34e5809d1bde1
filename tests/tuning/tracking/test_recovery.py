"""A lost journal is rebuilt from the study's database and its checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from proxytune.tuning.cli import cli
from proxytune.tuning.errors import InputError
from proxytune.tuning.journal.events import StudyStarted, TrialStarted
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.journal.recovery import recover
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.study import open_study
from proxytune.tuning.tracking.acknowledgement import num_waiting
from proxytune.tuning.trial.update import TrialUpdate
from tests.tuning.tracking.syncing import synced

NODE = {"node": "10.0.0.1", "pid": 7}


def metrics(number: int, step: int) -> dict[str, float]:
    return {"val_accuracy": number + step / 100, "val_loss": 1 / (number + step), "parameters": 99.0}


@pytest.fixture
def spec(make_spec: Callable[..., StudySpec], storage: Path) -> StudySpec:
    """Four trials of three reports with checkpoints; the last trial is interrupted after its second report."""
    spec = make_spec(f"storage={json.dumps(str(storage))}", "search.stopping.name=none")
    study = begin_study(spec)
    outbox = Outbox(spec.folder / "outbox")
    outbox.append(StudyStarted(time_ms=1, study=spec.name, spec=spec.model_dump(mode="json")))
    controller = StudyController(spec, study.optuna, study.storage, outbox)
    controller.reconcile()
    for _ in range(4):
        assignment = controller.next_trial()
        assert assignment is not None
        number = assignment.number
        for step in (10, 20, 30)[: 2 if number == 3 else 3]:
            report = metrics(number, step)
            assignment.checkpoints.save(step, {"report": {"step": step, "metrics": report}, "weights": [0.0]})
            if (number, step) == (2, 30):
                controller.receive(
                    number, TrialUpdate(step=25, outcome="diverged", reason="val_loss is nan"), NODE
                )
                break
            outcome = "complete" if step == 30 else "running"
            controller.receive(number, TrialUpdate(step=step, metrics=report, outcome=outcome), NODE)
    controller.stop("SIGTERM")
    controller.requeue_live()
    outbox.close()
    return spec


def recorded(folder: Path) -> dict[tuple[str, int, int | None], Any]:
    """The parameters and metrics of each trial event in the journal."""
    return {
        (event.kind, event.trial, getattr(event, "step", None)): event.params
        if isinstance(event, TrialStarted)
        else event.metrics
        for event in read_events(folder / "outbox").events
        if event.kind in ("trial", "report")
    }


def test_complete_journal_is_not_changed(spec: StudySpec, storage: Path) -> None:
    before = (spec.folder / "outbox" / "events.jsonl").read_bytes()
    outbox = Outbox(spec.folder / "outbox")
    assert recover(open_study(spec.name, storage), outbox) == 0
    outbox.close()
    assert (spec.folder / "outbox" / "events.jsonl").read_bytes().startswith(before)


def test_lost_journal_is_rebuilt_and_shipped_to_another_store(
    spec: StudySpec, storage: Path, tmp_path: Path, empty_mlflow_database: Path, make_store: Any
) -> None:
    before, ends = recorded(spec.folder), {}
    for event in read_events(spec.folder / "outbox").events:
        if event.kind == "end":
            ends[event.trial] = (event.outcome, event.step)
    assert ends == {0: ("complete", 30), 1: ("complete", 30), 2: ("diverged", 25), 3: ("interrupted", 20)}
    (spec.folder / "outbox" / "events.jsonl").unlink()
    other = tmp_path / "other.db"
    other.write_bytes(empty_mlflow_database.read_bytes())
    arguments = ["track", "rebuild", spec.name, "--storage", str(storage), "--uri", "./mlruns"]
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, InputError), "the journal is rebuilt before the URI is rejected"
    assert "events of 4 trials were missing in the journal" in result.stderr
    synced(spec.folder / "outbox", f"sqlite:///{other}")
    after = recorded(spec.folder)
    assert after.keys() == before.keys()
    for key, values in before.items():
        kind, _, step = key
        if kind == "report" and step == 10 and key[1] < 3:  # only the two newest checkpoints are kept
            assert after[key] == {"val_accuracy": values["val_accuracy"]}
        else:
            assert after[key] == values, key
    store = make_store(f"sqlite:///{other}")
    assert store.differences(spec.folder / "outbox") == {}
    runs = store.trials()
    assert {number: run.data.tags["outcome"] for number, run in runs.items()} == {
        number: outcome for number, (outcome, _) in ends.items()
    }
    assert runs[2].data.tags["reason"] == "val_loss is nan"
    assert store.parent().info.status == "KILLED"
    for run in runs.values():
        times = [time_ms for _, _, _, time_ms in store.points(run)]
        assert run.info.start_time <= min(times)
        assert run.info.end_time is None or max(times) <= run.info.end_time


def test_acknowledgement_of_another_journal_is_ignored(spec: StudySpec, uri: str, store: Any) -> None:
    folder = spec.folder / "outbox"
    synced(folder, uri)
    assert num_waiting(folder, uri, "proxytune") == 0
    (folder / "events.jsonl").unlink()
    outbox = Outbox(folder)
    assert recover(open_study(spec.name, spec.storage), outbox) == 4
    outbox.close()
    assert num_waiting(folder, uri, "proxytune") == len(read_events(folder).events)
    sync = synced(folder, uri)
    assert sync.notice is not None
    assert "another study named small" in sync.notice
    assert len(store.runs()) == 10
