"""Journals with damage from a disk, a newer version or a power failure: reported, and restored from the storage."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from proxytune.tuning.journal.events import BadRecord, Reported, TrialStarted, decode, encode
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import JOURNAL, journal_id, read_events
from proxytune.tuning.journal.recovery import open_journal, recover
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.trial.update import TrialUpdate


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    outbox = Outbox(tmp_path)
    outbox.append(TrialStarted(trial=0, params={}))
    outbox.append(Reported(trial=0, step=10, metrics={"val_accuracy": 0.25}))
    outbox.close()
    return tmp_path / JOURNAL


def test_record_is_one_line_of_json() -> None:
    event = Reported(time_ms=7, trial=0, step=1, metrics={"val_accuracy": 0.5})
    line = encode(event)
    assert json.loads(line)["metrics"] == {"val_accuracy": 0.5}
    assert decode(line) == event


def test_changed_digit_fails_the_checksum(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes().replace(b"0.25", b"0.95"))
    portion = read_events(journal.parent)
    assert [event.kind for event in portion.events] == ["journal", "trial"]
    (problem,) = portion.problems
    assert "its checksum is wrong" in problem


def test_unknown_event_kind_is_reported(journal: Path) -> None:
    with journal.open("a") as file:
        file.write('{"kind":"weather","time_ms":1}\n')
    portion = read_events(journal.parent)
    assert len(portion.events) == 3
    (problem,) = portion.problems
    assert problem.endswith("is skipped: unknown kind 'weather'")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"kind":"report"}',
        b'{"kind":"end","trial":-1,"step":0,"outcome":"complete"}',
        b'{"kind":"end","trial":1,"step":0,"outcome":"great"}',
        b'{"kind":"log","text":"a","colour":"red"}',
    ],
)
def test_invalid_record_is_rejected(line: bytes) -> None:
    with pytest.raises(BadRecord):
        decode(line + b"\n")


def test_journal_without_checksums_is_read(tmp_path: Path) -> None:
    """Version 0.1.0 wrote such journals."""
    lines = [
        '{"kind":"journal","format":1,"id":"abc"}',
        '{"kind":"trial","time_ms":1,"trial":0,"params":{"a":1},"attempt":1,"config":{}}',
        '{"kind":"end","trial":0,"time_ms":2,"outcome":"failed","reason":"","step":3,"metrics":{}}',
    ]
    (tmp_path / JOURNAL).write_text("\n".join(lines) + "\n")
    portion = read_events(tmp_path)
    assert (portion.problems, [event.kind for event in portion.events]) == ([], ["journal", "trial", "end"])


@pytest.mark.parametrize("damage", ["flipped", "zeroed", "shorter"])
def test_damaged_first_record_is_restored_from_the_storage(
    make_spec: Callable[..., StudySpec], damage: str
) -> None:
    """Its id identifies the study's runs in MLflow; without it, no further events could be shipped."""
    study = begin_study(make_spec())
    outbox = open_journal(study)
    outbox.append(TrialStarted(trial=0, params={}))
    outbox.close()
    path = study.folder / "outbox" / JOURNAL
    first, *rest = path.read_bytes().splitlines(keepends=True)
    bad = {
        "flipped": first.replace(b"journal", b"jaurnal"),
        "zeroed": b"\0" * (len(first) - 1) + b"\n",
        "shorter": b"{}\n",
    }
    path.write_bytes(bad[damage] + b"".join(rest))
    assert journal_id(path.parent) is None
    again = open_journal(study)
    again.close()
    assert again.id == outbox.id == journal_id(path.parent)
    assert "the first record was damaged" in again.problems[0]
    assert [event.kind for event in read_events(path.parent).events] == ["journal", "trial", "end"]


def test_reports_lost_in_a_power_failure_are_restored_from_the_storage(
    make_spec: Callable[..., StudySpec],
) -> None:
    spec = make_spec("search.stopping.name=none")
    study = begin_study(spec)
    outbox = open_journal(study)
    controller = StudyController(spec, study.optuna, study.storage, outbox)
    controller.reconcile()
    for _ in range(2):
        assert controller.next_trial() is not None
    for step in (10, 20):
        controller.receive(
            0, TrialUpdate(step=step, metrics={"val_accuracy": step / 100, "val_loss": 1.0}), {}
        )
    update = TrialUpdate(step=30, metrics={"val_accuracy": 0.3, "val_loss": 1.0}, outcome="complete")
    controller.receive(0, update, {})
    outbox.close()
    path = study.folder / "outbox" / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if b'"report"' not in line and b'"end"' not in line))
    again = open_journal(study)
    assert recover(study, again) == 1
    assert recover(study, again) == 0, "a second recovery adds nothing"
    again.close()
    events = read_events(path.parent).events
    reports = {event.step: event.metrics["val_accuracy"] for event in events if event.kind == "report"}
    assert reports == {10: 0.1, 20: 0.2, 30: 0.3}
    assert [event.outcome for event in events if event.kind == "end" and event.trial == 0][-1] == "complete"


def test_study_files_are_private_to_their_owner(make_spec: Callable[..., StudySpec]) -> None:
    before = os.umask(0o022)
    try:
        study = begin_study(make_spec())
        open_journal(study).close()
    finally:
        os.umask(before)
    private = [study.folder / "study.db", study.folder / "outbox" / JOURNAL]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    log = study.folder / "study.db-wal"
    assert not log.exists() or stat.S_IMODE(log.stat().st_mode) == 0o600
