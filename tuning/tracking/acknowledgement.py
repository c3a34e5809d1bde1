"""The acknowledged part of a journal per destination, and the number of pending events."""

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
    """The part of a journal that one destination has. The file is replaced atomically after each success."""

    uri: str
    experiment: str
    offset: int = 0  # bytes of the journal that are shipped
    end: str | None = None  # the last bytes before the offset: the checksum of the last shipped record
    experiment_id: str | None = None
    has_views: bool = False  # whether the destination's pages have the study's views
    parent_run: str | None = None
    trials: dict[str, str] = field(default_factory=dict)  # runs of the trials without a final end
    creating: list[str] = field(default_factory=list)  # trials whose run may exist although no answer arrived
    doubt_ms: int | None = None  # when an answer was lost; MLflow may still create that run
    study: dict[str, Any] = field(
        default_factory=dict
    )  # journal id, content of the newest study events, confirmation
    counters: dict[str, Any] = field(default_factory=dict)  # the study's counters up to the offset
    error: str | None = None

    @classmethod
    def load(cls, outbox_folder: Path, uri: str, experiment: str) -> "Acknowledgement":
        """Load the destination's acknowledgement.

        Returns an empty one, so that the whole journal is shipped (again), if nothing of this journal was shipped yet,
        the file is damaged, or the journal does not have the acknowledged record at the acknowledged offset.
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
        """Record that everything before the offset is shipped."""
        self.offset, self.end = offset, last_bytes(outbox_folder, offset, CHECKSUM_BYTES)

    def save(self, outbox_folder: Path) -> None:
        """Replace the file atomically and durably. It is readable only by its owner.

        The temporary file has a fixed name, so that killed shippers leave at most one. A lock admits one shipper at a time.

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
    """Number of events of the journal that the destination has not acknowledged."""
    return count_events(outbox_folder, Acknowledgement.load(outbox_folder, check_uri(uri), experiment).offset)


def last_error(outbox_folder: Path, uri: str, experiment: str) -> str | None:
    """The error of the last attempt to ship to the destination; None if it succeeded."""
    return Acknowledgement.load(outbox_folder, check_uri(uri), experiment).error


def count_events(outbox_folder: Path, offset: int) -> int:
    try:
        journal = (outbox_folder / JOURNAL).open("rb")
    except FileNotFoundError:
        return 0
    with journal:
        journal.seek(offset)
        return sum(chunk.count(b"\n") for chunk in iter(lambda: journal.read(1 << 20), b""))
