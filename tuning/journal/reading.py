"""Reading a study's journal: an append-only file of records (`events.py`), one per line."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from proxytune.tuning.journal.events import BadRecord, Event, JournalStarted, decode

JOURNAL = "events.jsonl"
_PORTION_BYTES = 8 << 20


@dataclass(frozen=True)
class Portion:
    """Consecutive events of a journal.

    records: (offset after the event, event). offset: byte after the last complete line. problems: one line for each
    record that could not be read.
    """

    records: list[tuple[int, Event]] = field(default_factory=list)
    offset: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def events(self) -> list[Event]:
        return [event for _, event in self.records]


def read_events(folder: Path, offset: int = 0, max_bytes: int | None = None) -> Portion:
    """Read the complete records from byte `offset`.

    At least one line is read if there is one, even if it exceeds `max_bytes`. An incomplete last line is left for the
    next call. A line that is not a valid event (damaged disk, newer version) is reported and skipped.
    """
    try:
        journal = (folder / JOURNAL).open("rb")
    except FileNotFoundError:
        return Portion(offset=offset)
    records: list[tuple[int, Event]] = []
    problems: list[str] = []
    with journal:
        journal.seek(offset)
        start = offset
        for line in journal:
            if not line.endswith(b"\n"):
                break
            place, offset = offset, offset + len(line)
            try:
                records.append((offset, decode(line)))
            except BadRecord as error:
                problems.append(f"{folder / JOURNAL}: the record at byte {place} is skipped: {error}")
            if max_bytes is not None and offset - start >= max_bytes:
                break
    return Portion(records, offset, problems)


def read_all(folder: Path) -> Iterator[Portion]:
    """The whole journal, in portions of a few megabytes."""
    offset = 0
    while (portion := read_events(folder, offset, _PORTION_BYTES)).offset != offset:
        yield portion
        offset = portion.offset


def journal_id(folder: Path) -> str | None:
    """Id of the journal; None if there is none or its first record is damaged."""
    first = _first_record(folder)
    return first.id if first else None


def study_of_journal(folder: Path) -> str | None:
    """Id of the study that the journal belongs to; None if its first record does not contain it."""
    first = _first_record(folder)
    return first.study if first else None


def _first_record(folder: Path) -> JournalStarted | None:
    first = read_events(folder, max_bytes=1).events
    return first[0] if first and isinstance(first[0], JournalStarted) else None


def last_bytes(folder: Path, offset: int, size: int) -> str | None:
    """The `size` bytes before the offset; None if the journal is shorter."""
    try:
        with (folder / JOURNAL).open("rb") as journal:
            if offset < size or journal.seek(0, os.SEEK_END) < offset:
                return None
            journal.seek(offset - size)
            return journal.read(size).decode(errors="replace")
    except FileNotFoundError:
        return None


def sync_to_disk(folder: Path) -> None:
    """Sync the journal to disk.

    Raises:
        OSError: the disk failed.
    """
    file = os.open(folder / JOURNAL, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
