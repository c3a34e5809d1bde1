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

from proxytune.tuning.journal.outbox import Event, read_events

POLL_SECONDS = 0.5
BATCH = 100


def next_events(folder: Path, offset: int) -> list[tuple[int, Event]]:
    """Up to BATCH events from byte `offset` on, each with the offset behind it."""
    found: list[tuple[int, Event]] = []
    while len(found) < BATCH:
        events, behind = read_events(folder, offset, max_bytes=1)
        if behind == offset:
            break
        offset = behind
        found += [(behind, event) for event in events]
    return found


async def stream(
    folder: Path, offset: int, follow: bool, closing: threading.Event
) -> AsyncIterator[ServerSentEvent]:
    """Every event from the offset on; with `follow` also those to come, until the study ends or the server does."""
    ended = False
    while True:
        events = await anyio.to_thread.run_sync(next_events, folder, offset)
        for offset, event in events:
            ended = event["kind"] == "study_end"
            yield ServerSentEvent(
                event=str(event["kind"]), id=str(offset), raw_data=json.dumps(finite(event), default=str)
            )
        if not events and (ended or not follow):
            return
        if not events:
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
