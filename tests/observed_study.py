"""Observe a study that runs in other processes through its journal."""

import time
from pathlib import Path
from typing import Any

from proxytune.tuning.journal.reading import read_events


class ObservedStudy:
    """The events of a study's journal so far, and a timeline of notes in seconds since construction."""

    def __init__(self, outbox: Path) -> None:
        self.outbox = outbox
        self.timeline: list[str] = []
        self._began = time.monotonic()

    def events(self, kind: str) -> list[Any]:
        """The events of one kind, in order."""
        return [event for event in read_events(self.outbox).events if event.kind == kind]

    def completions(self) -> list[Any]:
        """The end events of complete trials."""
        return [event for event in self.events("end") if event.outcome == "complete"]

    def note(self, text: str) -> float:
        """Add a line to the timeline and print it; returns the time on the monotonic clock, in seconds."""
        self.timeline.append(f"{time.monotonic() - self._began:7.1f} s  {text}")
        print(self.timeline[-1], flush=True)
        return time.monotonic()
