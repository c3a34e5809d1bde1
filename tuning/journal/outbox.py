"""The outbox: every tracking event of a study, in one append-only journal beside its trials.

The study's driver appends to `events.jsonl` and never waits for MLflow; whoever ships the events acknowledges
them in a file of its own (`proxytune.tuning.tracking.shipper`), so the whole journal can be shipped again elsewhere.
Each append is handed to the kernel at once: it survives the death of the process, not that of the machine.
"""

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from proxytune.tuning.errors import HeldError

JOURNAL = "events.jsonl"

Event = dict[str, Any]


def read_events(folder: Path, offset: int = 0, max_bytes: int | None = None) -> tuple[list[Event], int]:
    """The whole events from byte `offset` on, and the offset behind the last of them.

    At least one event is returned where there is one, however small `max_bytes`. An event that is still being
    written is left for the next call; a line that is no event (a damaged disk) is passed over.
    """
    events: list[Event] = []
    try:
        journal = (folder / JOURNAL).open("rb")
    except FileNotFoundError:
        return events, offset
    with journal:
        journal.seek(offset)
        start = offset
        for line in journal:
            if not line.endswith(b"\n"):
                break
            offset += len(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                events.append(event)
            if max_bytes is not None and offset - start >= max_bytes:
                break
    return events, offset


def journal_id(folder: Path) -> str | None:
    """Which journal this is; None where there is none yet."""
    events, _ = read_events(folder, max_bytes=1)
    return str(events[0]["id"]) if events and events[0]["kind"] == "journal" else None


@dataclass(slots=True)
class _Trial:
    """What the journal already holds of one trial."""

    last_step: int = 0
    steps: dict[int, frozenset[str]] = field(default_factory=dict)  # metric names reported at each step
    running: bool = False
    final: bool = False


class Outbox:
    """The one writer of a study's journal.

    Opening it repairs a line torn by a kill, and ends as `interrupted` what a killed driver left running, at
    the time of the last event: nobody else runs trials of this study while the journal is held.

    Raises:
        HeldError: another process has the journal open.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "writer.lock", blocking=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise HeldError(f"another process writes the journal in {folder}; wait until it ends") from None
        self._trials: dict[int, _Trial] = {}
        self._names: dict[frozenset[str], frozenset[str]] = {}  # one copy of each set of metric names
        self._study_open = False
        self._last_time_ms = 0
        self._size = self._scan(folder)
        self._path = folder / JOURNAL
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, self._size)
        if self._size == 0:
            self._write({"kind": "journal", "format": 1, "id": uuid.uuid4().hex})
        self._end_what_was_left()

    def append(self, event: Mapping[str, Any]) -> bool:
        """Write one event; False where the journal already says it, and nothing is written.

        Said already are: a report of a step that the trial reported before, anything of a trial after its
        final end, an interruption of a trial that does not run. A final end keeps only those metrics that
        its step has not reported.

        Raises:
            OSError: the disk is full or gone; the journal is as before.
        """
        event = self._news(event)
        if not event:
            return False
        self._write(event)
        self._remember(event)
        return True

    @property
    def trials(self) -> set[int]:
        """The numbers of the trials that the journal knows."""
        return set(self._trials)

    def close(self) -> None:
        """Let the journal go, for the next driver."""
        os.close(self._file)
        self._lock.release()

    def _news(self, event: Mapping[str, Any]) -> Event:
        """The part of the event that the journal does not hold yet; empty if none."""
        kind = event["kind"]
        if kind not in ("trial", "report", "end"):
            return dict(event)
        trial = self._trials.get(event["trial"], _Trial())
        if trial.final:
            return {}
        if kind == "report" and event["step"] in trial.steps:
            return {}
        if kind == "end":
            if event["outcome"] == "interrupted" and not trial.running:
                return {}
            reported = trial.steps.get(event["step"], frozenset())
            metrics = {key: value for key, value in event["metrics"].items() if key not in reported}
            return {**event, "metrics": metrics}
        return dict(event)

    def _remember(self, event: Mapping[str, Any]) -> None:
        kind = event["kind"]
        self._last_time_ms = event.get("time_ms", self._last_time_ms)
        if kind == "study":
            self._study_open = True
        elif kind == "study_end":
            self._study_open = False
        elif kind in ("trial", "report", "end"):
            trial = self._trials.setdefault(event["trial"], _Trial())
            if kind == "trial":
                trial.running = True
                return
            step = trial.last_step = event["step"]
            names = trial.steps.get(step, frozenset()).union(event["metrics"])
            if kind == "report" or names:
                trial.steps[step] = self._names.setdefault(names, names)
            if kind == "end":
                trial.running = False
                trial.final = event["outcome"] != "interrupted"
                if trial.final:
                    trial.steps.clear()

    def _scan(self, folder: Path) -> int:
        """Learn what the journal holds, a few megabytes at a time; the size of its whole lines in bytes."""
        offset = 0
        while True:
            events, behind = read_events(folder, offset, max_bytes=8 << 20)
            for event in events:
                self._remember(event)
            if behind == offset:
                return offset
            offset = behind

    def _write(self, event: Mapping[str, Any]) -> None:
        line = json.dumps(event, separators=(",", ":"), default=str).encode() + b"\n"
        size = len(line)
        try:
            while line:  # a filling disk takes a part first, and says why at the next
                line = line[os.write(self._file, line) :]
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        self._size += size

    def _end_what_was_left(self) -> None:
        left = {"time_ms": self._last_time_ms, "reason": "the driver ended without a word"}
        for number, trial in self._trials.items():
            if trial.running:
                self.append(
                    {"kind": "end", "trial": number, "step": trial.last_step, "metrics": {}}
                    | left
                    | {"outcome": "interrupted"}
                )
        if self._study_open:
            self.append({"kind": "study_end", "status": "interrupted", "summary": {}} | left)
