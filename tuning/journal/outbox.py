"""The writer of a study's journal, to which all tracking events are appended.

The study's driver appends to `events.jsonl` and never waits for MLflow. Each shipper records its progress in a separate
file (`proxytune.tuning.tracking.acknowledgement`), so the whole journal can be shipped again to another destination.
Each append is passed to the kernel immediately and survives the death of the process. The shipper syncs the journal to
disk before it ships, so MLflow never has an event that a power failure could remove from the journal.
"""

import os
import tempfile
import uuid
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from proxytune.tuning.errors import HeldError
from proxytune.tuning.journal.events import (
    Event,
    JournalStarted,
    Reported,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialStarted,
    encode,
)
from proxytune.tuning.journal.reading import JOURNAL, journal_id, read_all
from proxytune.tuning.spec.outcome import Outcome, StudyStatus

PRIVATE = 0o600
"""Mode of the files that hold a study's configuration and results."""


@dataclass(slots=True)
class _Trial:
    """What the journal already contains about one trial."""

    last_step: int = 0
    steps: dict[int, frozenset[str]] = field(default_factory=dict)  # metric names reported at each step
    running: bool = False
    final: bool = False


class Outbox:
    """The only writer of a study's journal.

    Opening it repairs an incomplete last line and a damaged first record. Trials that a killed driver left running end as
    `interrupted` at the time of the last event, since no other process runs trials while the journal is locked.

    Args:
        folder: the folder of the journal.
        known_id: id of the journal in the study's storage, for a journal whose first record is damaged. Without it such
            a journal gets a new id and therefore new runs in MLflow.
        study_id: id of the study, for the first record.

    Raises:
        HeldError: another process has the journal open.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, known_id: str | None = None, study_id: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "writer.lock", blocking=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise HeldError(f"another process writes the journal in {folder}; wait until it ends") from None
        self.problems: list[str] = []
        """Records that could not be read, one line each."""
        self._trials: dict[int, _Trial] = {}
        self._names: dict[frozenset[str], frozenset[str]] = {}  # interned sets of metric names
        self._study_open = False
        self._last_time_ms = 0
        self._path = folder / JOURNAL
        self.id = journal_id(folder) or known_id or uuid.uuid4().hex
        self._begin = JournalStarted(id=self.id, study=study_id)
        if self._path.exists() and self._path.stat().st_size and journal_id(folder) is None:
            self._repair_first_record()
        self._size = self._scan(folder)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE)
        os.fchmod(self._file, PRIVATE)
        os.ftruncate(self._file, self._size)
        if self._size == 0:
            self._write(self._begin)
            _sync_folder(folder)
        self._end_unfinished()

    def append(self, event: Event) -> bool:
        """Append one event. Returns False, without writing, if the event is redundant.

        Redundant are a second report of a step, any event of a trial after its final end, and an interruption of a trial
        that is not running. From an end, metrics that were already reported at its step are removed.

        Raises:
            OSError: the disk is full or unavailable. The journal is unchanged.
        """
        new = self._without_known(event)
        if new is None:
            return False
        self._write(new)
        self._remember(new)
        return True

    @property
    def is_open(self) -> bool:
        """Whether the journal says that a driver runs the study."""
        return self._study_open

    @property
    def trials(self) -> Set[int]:
        """The numbers of the trials in the journal."""
        return self._trials.keys()

    def has_ended(self, number: int) -> bool:
        """Whether the journal contains the final end of a trial."""
        return number in self._trials and self._trials[number].final

    def close(self) -> None:
        """Release the journal for the next driver."""
        os.close(self._file)
        self._lock.release()

    def _without_known(self, event: Event) -> Event | None:
        """The event without metrics that the journal already contains; None if the event is redundant."""
        if not isinstance(event, TrialStarted | Reported | TrialEnded):
            return event
        trial = self._trials.get(event.trial, _Trial())
        if trial.final:
            return None
        if isinstance(event, Reported) and event.step in trial.steps:
            return None
        if isinstance(event, TrialEnded):
            if not event.outcome.is_final and not trial.running:
                return None
            reported = trial.steps.get(event.step, frozenset())
            metrics = {key: value for key, value in event.metrics.items() if key not in reported}
            return event.model_copy(update={"metrics": metrics})
        return event

    def _remember(self, event: Event) -> None:
        if isinstance(event, JournalStarted):
            return
        self._last_time_ms = event.time_ms
        if isinstance(event, StudyStarted):
            self._study_open = True
        elif isinstance(event, StudyEnded):
            self._study_open = False
        elif isinstance(event, TrialStarted):
            self._trials.setdefault(event.trial, _Trial()).running = True
        elif isinstance(event, Reported | TrialEnded):
            self._remember_step(event)

    def _remember_step(self, event: Reported | TrialEnded) -> None:
        trial = self._trials.setdefault(event.trial, _Trial())
        step = trial.last_step = event.step
        names = trial.steps.get(step, frozenset()).union(event.metrics)
        if isinstance(event, Reported) or names:
            trial.steps[step] = self._names.setdefault(names, names)
        if isinstance(event, TrialEnded):
            trial.running = False
            trial.final = event.outcome.is_final
            if trial.final:
                trial.steps.clear()

    def _scan(self, folder: Path) -> int:
        """Read the journal into this object's state. Returns the size of its complete lines in bytes."""
        size = 0
        for portion in read_all(folder):
            for event in portion.events:
                self._remember(event)
            self.problems += portion.problems
            size = portion.offset
        return size

    def _repair_first_record(self) -> None:
        """Replace a damaged first line with a new first record. Offsets may change, which acknowledgements detect."""
        self.problems.append(f"{self._path}: the first record was damaged and is replaced")
        with (
            self._path.open("rb") as damaged,
            tempfile.NamedTemporaryFile(dir=self._path.parent, prefix=JOURNAL, delete=False) as repaired,
        ):
            damaged.readline()
            repaired.write(encode(self._begin))
            while chunk := damaged.read(1 << 20):
                repaired.write(chunk)
            repaired.flush()
            os.fsync(repaired.fileno())
        os.replace(repaired.name, self._path)
        _sync_folder(self._path.parent)

    def _write(self, event: Event) -> None:
        line = encode(event)
        size = len(line)
        try:
            while line:  # a nearly full disk accepts a part first and fails at the next call
                line = line[os.write(self._file, line) :]
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        self._size += size

    def _end_unfinished(self) -> None:
        reason = "the driver ended without a record of it"
        for number, trial in self._trials.items():
            if trial.running:
                self.append(
                    TrialEnded(
                        time_ms=self._last_time_ms,
                        trial=number,
                        step=trial.last_step,
                        outcome=Outcome.INTERRUPTED,
                        reason=reason,
                    )
                )
        if self._study_open:
            self.append(StudyEnded(time_ms=self._last_time_ms, status=StudyStatus.INTERRUPTED, reason=reason))


def _sync_folder(folder: Path) -> None:
    """Sync the folder's entries to disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
