"""A study that runs in other processes, seen by its journal."""

import time
from pathlib import Path
from typing import Any

from proxytune.tuning.journal.reading import read_events


class Watched:
    """What the study's journal says so far, and what happened when, in seconds."""

    def __init__(self, outbox: Path) -> None:
        self.outbox = outbox
        self.timeline: list[str] = []
        self._began = time.monotonic()

    def events(self, kind: str) -> list[Any]:
        return [event for event in read_events(self.outbox).events if event.kind == kind]

    def completions(self) -> list[Any]:
        return [event for event in self.events("end") if event.outcome == "complete"]

    def note(self, what: str) -> float:
        """Keep a line of what happened; when that was, on the monotonic clock."""
        self.timeline.append(f"{time.monotonic() - self._began:7.1f} s  {what}")
        print(self.timeline[-1], flush=True)
        return time.monotonic()
