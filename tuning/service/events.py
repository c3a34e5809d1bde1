"""A study's journal as a server-sent event stream, from any offset until the study has ended.

The id of an event is the byte offset of its end in the journal. A client that reconnects sends it as Last-Event-ID and
misses no event, with any server of the same storage.
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
BATCH_BYTES = 64 << 10  # read from the journal at once


async def stream(
    folder: Path, offset: int, follow: bool, closing: threading.Event
) -> AsyncIterator[ServerSentEvent]:
    """Every event from the offset; with `follow` also future events, until the study or the server ends."""
    ended = False
    while True:
        portion = await anyio.to_thread.run_sync(read_events, folder, offset, BATCH_BYTES)
        for end, event in portion.records:
            ended = isinstance(event, StudyEnded)
            yield ServerSentEvent(
                event=event.kind, id=str(end), raw_data=json.dumps(finite(event.model_dump(mode="json")))
            )
        is_at_end = portion.offset == offset
        offset = portion.offset
        if is_at_end and (ended or not follow):
            return
        if is_at_end:
            await anyio.sleep(POLL_SECONDS)
        if closing.is_set():
            return


def finite(value: Any) -> Any:
    """The value with null for numbers that JSON cannot represent (NaN, infinities)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value
