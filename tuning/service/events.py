"""A study's events as a server-sent stream: its journal, from any place on, until the study has ended.

The id of an event is the byte of the journal behind it, so a client that was cut off sends it as Last-Event-ID and misses
nothing, whichever server answers.
"""

import json
import math
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
from fastapi.sse import ServerSentEvent

from proxytune.tuning.journal.events import StudyEnded
from proxytune.tuning.journal.reading import read_events

POLL_SECONDS = 0.5
BATCH_BYTES = 64 << 10  # of the journal at a time


async def stream(
    folder: Path, offset: int, follow: bool, closing: threading.Event
) -> AsyncIterator[ServerSentEvent]:
    """Every event from the offset on; with `follow` also those to come, until the study ends or the server does."""
    ended = False
    while True:
        portion = await anyio.to_thread.run_sync(read_events, folder, offset, BATCH_BYTES)
        for behind, event in portion.records:
            ended = isinstance(event, StudyEnded)
            yield ServerSentEvent(
                event=event.kind, id=str(behind), raw_data=json.dumps(finite(event.model_dump(mode="json")))
            )
        is_behind = portion.offset == offset
        offset = portion.offset
        if is_behind and (ended or not follow):
            return
        if is_behind:
            await anyio.sleep(POLL_SECONDS)
        if closing.is_set():
            return


def finite(value: Any) -> Any:
    """The value with null for what JSON has no word for (NaN, infinities)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value
