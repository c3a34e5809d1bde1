"""State that the routes of a server share."""

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
"""How long a result of the storage check is valid."""


class Readiness:
    """Checks whether the studies' storage responds, in a dedicated thread: all workers may be waiting for the storage."""

    def __init__(self, studies: Studies) -> None:
        self._studies = studies
        self._lock = asyncio.Lock()
        self._checked = float("-inf")
        self._error: Exception | None = None

    async def check(self) -> None:
        """Raise the storage's error, if any.

        Raises:
            StorageError
        """
        async with self._lock:
            if time.monotonic() - self._checked > READY_SECONDS:
                try:
                    await anyio.to_thread.run_sync(self._studies.names, limiter=anyio.CapacityLimiter(1))
                    self._error = None
                except ProxytuneError as error:
                    self._error = error
                self._checked = time.monotonic()
        if self._error is not None:
            raise self._error


@dataclass(frozen=True)
class State:
    """A server's studies, cluster, metrics, limits, and whether it is shutting down."""

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
    """The server's state, for a route. Asynchronous: other dependencies need a worker thread, and all may be busy."""
    state: State = request.app.state.proxytune
    return state


async def who_asks(request: Request) -> str:
    """The holder of the request's token, as recorded in the study's event log."""
    return str(request.state.who)
