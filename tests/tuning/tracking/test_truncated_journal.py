"""A truncated journal, damaged records and damaged acknowledgements: all valid events are shipped."""

import stat
from pathlib import Path
from typing import Any

import pytest

from proxytune.tuning.journal.events import Reported, TrialEnded, TrialStarted
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import JOURNAL, read_events
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.tracking import mlflow_sync
from proxytune.tuning.tracking.acknowledgement import Acknowledgement, last_error, num_waiting
from tests.benchmarks.synthetic import synthetic_events
from tests.tuning.tracking.syncing import Fill, synced


def test_events_written_after_a_truncation_are_shipped(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    """The truncated journal grows beyond the acknowledged offset again, with other trials."""
    events = list(synthetic_events(3, steps=100, seed=1))
    fill(events)
    synced(outbox_folder, uri)
    journal = outbox_folder / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]))
    outbox = Outbox(outbox_folder)
    for number in range(10, 16):
        outbox.append(TrialStarted(time_ms=2, trial=number, params={}, config={}))
        for step in range(5):
            outbox.append(Reported(time_ms=3, trial=number, step=step, metrics={"val_accuracy": 0.5}))
        outbox.append(TrialEnded(time_ms=4, trial=number, step=4, outcome=Outcome.COMPLETE))
    outbox.close()
    assert num_waiting(outbox_folder, uri, "proxytune") == len(read_events(outbox_folder).events)
    synced(outbox_folder, uri)
    assert num_waiting(outbox_folder, uri, "proxytune") == 0
    runs = store.trials()
    for number in range(10, 16):
        assert len(list(store.points(runs[number]).elements())) == 6, "five reports, and the value for Optuna"


def test_offset_beyond_the_end_reships_the_journal(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    fill(synthetic_events(3, steps=100, seed=1))
    synced(outbox_folder, uri)
    known = Acknowledgement.load(outbox_folder, uri, "proxytune")
    known.offset *= 2
    known.save(outbox_folder)
    assert num_waiting(outbox_folder, uri, "proxytune") == len(read_events(outbox_folder).events)
    synced(outbox_folder, uri)
    assert store.differences(outbox_folder) == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"uri": 1, "unknown": 2}'])
def test_damaged_acknowledgement_counts_all_events_as_waiting(
    fill: Fill, outbox_folder: Path, uri: str, content: str
) -> None:
    fill(synthetic_events(1, steps=100, seed=1))
    Acknowledgement(uri, "proxytune").path(outbox_folder).write_text(content)
    assert num_waiting(outbox_folder, uri, "proxytune") == len(read_events(outbox_folder).events)
    assert last_error(outbox_folder, uri, "proxytune") is None


def test_journal_is_synced_to_disk_before_it_is_shipped(
    fill: Fill, outbox_folder: Path, uri: str, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_at_sync: list[int] = []
    sync_to_disk = mlflow_sync.sync_to_disk

    def record_sync(folder: Path) -> None:
        runs_at_sync.append(len(store.runs()))
        sync_to_disk(folder)

    monkeypatch.setattr(mlflow_sync, "sync_to_disk", record_sync)
    fill(synthetic_events(1, steps=100, seed=1))
    synced(outbox_folder, uri)
    assert runs_at_sync == [0], "the journal was synced after it was shipped"
    assert len(store.runs()) == 2
    (acknowledgement,) = outbox_folder.glob("acknowledged-*.json")
    assert stat.S_IMODE(acknowledgement.stat().st_mode) == 0o600


def test_damaged_record_is_reported_and_the_others_are_shipped(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    fill(synthetic_events(2, steps=100, seed=1))
    journal = outbox_folder / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    index = next(index for index, line in enumerate(lines) if b'"report"' in line)
    lines[index] = lines[index].replace(b'"step":', b'"stop":')
    journal.write_bytes(b"".join(lines))
    synced(outbox_folder, uri)
    assert "its checksum is wrong" in str(last_error(outbox_folder, uri, "proxytune"))
    assert store.differences(outbox_folder) == {}
