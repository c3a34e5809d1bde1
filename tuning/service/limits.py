"""Limits of requests per minute, bytes and seconds per request, and of concurrent exports and event streams."""

import asyncio
import math
import threading
import time
from collections.abc import Iterator

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.types import Message, Receive, Scope

from proxytune.tuning.service.problems import Problem

MAX_BODY = 64 << 10
"""Bytes. Study files are a few kilobytes; parsing this many as YAML takes at most 3 s (2 cores, AMD EPYC)."""
BODY_SECONDS = 20.0
EXPORTS = 2
"""Concurrent exports; each loads a model and runs its programs in separate processes."""
STREAMS = 100
"""Concurrent event streams; the remaining connections (`connections.TOTAL`, `PER_ADDRESS`) stay free for other requests."""


class RateLimit:
    """A moving window of one minute per client."""

    def __init__(self, requests_per_minute: int) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._item = RateLimitItemPerMinute(requests_per_minute)

    def check(self, client: str, cost: int) -> None:
        """Count a request.

        Raises:
            Problem: 429 with Retry-After, too many requests in the last minute.
        """
        if self._limiter.hit(self._item, client, cost=cost):
            return
        reset = self._limiter.get_window_stats(self._item, client).reset_time
        wait = max(1, math.ceil(reset - time.time()))
        raise Problem(
            429,
            f"more than {self._item.amount} requests in a minute (a POST or an export counts as ten)",
            {"Retry-After": str(wait)},
        )


class Slots:
    """A limit of concurrent requests of one kind, over all clients."""

    def __init__(self, number: int, kind: str) -> None:
        self._free, self._number, self._kind = threading.BoundedSemaphore(number), number, kind

    def take(self) -> Iterator[None]:
        """Hold a slot until the response has been sent; a FastAPI dependency.

        Raises:
            Problem: 429, all slots are taken.
        """
        if not self._free.acquire(blocking=False):
            raise Problem(429, f"{self._number} {self._kind} are already in progress", {"Retry-After": "30"})
        try:
            yield
        finally:
            self._free.release()


async def whole_body(scope: Scope, receive: Receive) -> Receive:
    """Read the request's body; the returned `receive` replays it.

    Raises:
        Problem: 413, it is too large; 408, it did not arrive in time.
    """
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if not length.isdigit() or int(length) > MAX_BODY:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return _replay([message], receive)  # the client has gone
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > MAX_BODY:
                    raise _too_large()
    except TimeoutError:
        raise Problem(
            408, f"the body did not arrive within {BODY_SECONDS:g} s", {"Connection": "close"}
        ) from None
    return _replay([{"type": "http.request", "body": bytes(body), "more_body": False}], receive)


def _too_large() -> Problem:
    # The rest of the body is not read, so the connection cannot be reused.
    return Problem(413, f"a request body is limited to {MAX_BODY:,} bytes", {"Connection": "close"})


def _replay(messages: list[Message], receive: Receive) -> Receive:
    async def replayed() -> Message:
        return messages.pop(0) if messages else await receive()

    return replayed
