"""Facts of a study's first driver, from its journal: versions, hardware, data."""

from pathlib import Path
from typing import Any

from proxytune.tuning.journal.events import StudyStarted
from proxytune.tuning.journal.reading import read_events

_HEAD_BYTES = 1 << 20  # the facts of the first driver are in the first lines


def first_facts(outbox_folder: Path) -> dict[str, Any]:
    """The facts recorded by the study's first driver; empty if there are none."""
    events = read_events(outbox_folder, 0, _HEAD_BYTES).events
    return next((event.facts for event in events if isinstance(event, StudyStarted)), {})
