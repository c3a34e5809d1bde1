"""What the routes of one server share."""

import asyncio
import threading
import time
from dataclasses import dataclass, field

import anyio.to_thread
from fastapi import Request

from proxytune.tuning.errors import ProxytuneError
from proxytune.tuning.service import limits
from proxytune.tuning.service.limits import Slots
from proxytune.tuning.service.metrics import Metrics
from proxytune.tuning.service.runs import Runs
from proxytune.tuning.service.settings import Settings
from proxytune.tuning.service.studies import Studies

READY_SECONDS = 1.0
"""How long an answer of the storage holds."""


class Readiness:
    """Whether the studies' storage answers, asked in a thread of its own: the workers may all be waiting for it."""

    def __init__(self, studies: Studies) -> None:
        self._studies = studies
        self._lock = asyncio.Lock()
        self._asked = float("-inf")
        self._error: Exception | None = None

    async def check(self) -> None:
        """Raise the storage's error, if it has one.

        Raises:
            StorageError
        """
        async with self._lock:
            if time.monotonic() - self._asked > READY_SECONDS:
                try:
                    await anyio.to_thread.run_sync(self._studies.names, limiter=anyio.CapacityLimiter(1))
                    self._error = None
                except ProxytuneError as error:
                    self._error = error
                self._asked = time.monotonic()
        if self._error is not None:
            raise self._error


@dataclass(frozen=True)
class State:
    """The server's studies, its cluster, its counters, and whether it is leaving."""

    settings: Settings
    studies: Studies
    runs: Runs
    metrics: Metrics
    readiness: Readiness
    exports: Slots
    streams: Slots
    closing: threading.Event = field(default_factory=threading.Event)
    creating: threading.Lock = field(default_factory=threading.Lock)  # held while a study is created

    @classmethod
    def of(cls, settings: Settings) -> "State":
        studies = Studies(settings.storage, settings.database)
        exports, streams = Slots(limits.EXPORTS, "exports"), Slots(limits.STREAMS, "event streams")
        readiness = Readiness(studies)
        return cls(settings, studies, Runs(settings.address), Metrics(studies), readiness, exports, streams)


async def state_of(request: Request) -> State:
    """The server's state, for a route. Asynchronous, as FastAPI gives other dependencies a worker, and all may be waiting."""
    state: State = request.app.state.proxytune
    return state


async def who_asks(request: Request) -> str:
    """Whose token the request carries, as the study's event log says it."""
    return str(request.state.who)
