"""What a destination has acknowledged of a journal, and how many events still wait."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from proxytune.tuning.journal.events import CHECKSUM_BYTES
from proxytune.tuning.journal.outbox import PRIVATE
from proxytune.tuning.journal.reading import JOURNAL, journal_id, last_bytes
from proxytune.tuning.spec.locations import check_uri


@dataclass
class Acknowledgement:
    """What one destination has of a journal: written whole, after each success, beside the journal."""

    uri: str
    experiment: str
    offset: int = 0  # bytes of the journal that are shipped for good
    end: str | None = None  # the last bytes before the offset: the checksum of the last shipped record
    experiment_id: str | None = None
    has_views: bool = False  # whether the destination's pages have the study's views
    parent_run: str | None = None
    trials: dict[str, str] = field(default_factory=dict)  # runs of the trials without a final end
    creating: list[str] = field(default_factory=list)  # runs that MLflow may have made without our knowing
    doubt_ms: int | None = None  # when a creation's answer was lost, and MLflow may still carry it out
    study: dict[str, Any] = field(
        default_factory=dict
    )  # the journal's id, and what the newest study event and confirmation say
    counters: dict[str, Any] = field(default_factory=dict)  # the study's counters up to the offset
    error: str | None = None

    @classmethod
    def load(cls, outbox_folder: Path, uri: str, experiment: str) -> "Acknowledgement":
        """The destination's acknowledgement.

        A fresh one, by which the whole journal is shipped again, where nothing of this journal was shipped yet, the
        file is damaged, or the journal does not have the acknowledged record at the acknowledged place.
        """
        empty = cls(uri, experiment)
        try:
            known = cls(**json.loads(empty.path(outbox_folder).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return empty
        if known.study.get("id") not in (None, journal_id(outbox_folder)):
            return empty
        if known.offset and known.end != last_bytes(outbox_folder, known.offset, CHECKSUM_BYTES):
            return empty
        return known

    def path(self, outbox_folder: Path) -> Path:
        digest = hashlib.sha256(f"{self.uri}\n{self.experiment}".encode()).hexdigest()[:12]
        return outbox_folder / f"acknowledged-{digest}.json"

    def advance(self, outbox_folder: Path, offset: int) -> None:
        """Everything before the offset is shipped."""
        self.offset, self.end = offset, last_bytes(outbox_folder, offset, CHECKSUM_BYTES)

    def save(self, outbox_folder: Path) -> None:
        """Replace the file in one step; the disk has it then. Readable by its owner only.

        The new file has one name, so that a killed shipper leaves no more than one; a lock admits one shipper at a time.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self.path(outbox_folder)
        new = path.with_suffix(".new")
        with open(
            os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE), "w", encoding="utf-8"
        ) as file:
            json.dump(asdict(self), file, separators=(",", ":"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)


def num_waiting(outbox_folder: Path, uri: str, experiment: str) -> int:
    """How many events of the journal the destination has not acknowledged."""
    return count_events(outbox_folder, Acknowledgement.load(outbox_folder, check_uri(uri), experiment).offset)


def last_error(outbox_folder: Path, uri: str, experiment: str) -> str | None:
    """What stood between the events and the destination when they were last shipped; None if nothing did."""
    return Acknowledgement.load(outbox_folder, check_uri(uri), experiment).error


def count_events(outbox_folder: Path, offset: int) -> int:
    try:
        journal = (outbox_folder / JOURNAL).open("rb")
    except FileNotFoundError:
        return 0
    with journal:
        journal.seek(offset)
        return sum(chunk.count(b"\n") for chunk in iter(lambda: journal.read(1 << 20), b""))
