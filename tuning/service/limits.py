"""How much one client may ask: requests a minute, bytes a request, seconds to send them; and what all may at once."""

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
"""Bytes. Study files are a few kilobytes; what is allowed here takes the YAML reader 3 s at worst (2 cores, AMD EPYC)."""
BODY_SECONDS = 20.0
EXPORTS = 2
"""At once; each loads a model and runs its programs in processes of their own."""
STREAMS = 100
"""Event streams at once; half of the connections stay free for everything else."""


class RateLimit:
    """A moving window of one minute for each client."""

    def __init__(self, requests_per_minute: int) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._item = RateLimitItemPerMinute(requests_per_minute)

    def check(self, client: str, cost: int) -> None:
        """Count a request.

        Raises:
            Problem: 429, there were too many in the last minute, and when to come back.
        """
        if self._limiter.hit(self._item, client, cost=cost):
            return
        reset = self._limiter.get_window_stats(self._item, client).reset_time
        wait = max(1, math.ceil(reset - time.time()))
        raise Problem(
            429,
            f"more than {self._item.amount} requests in a minute (one that changes or exports counts as ten)",
            {"Retry-After": str(wait)},
        )


class Slots:
    """So many of a kind at once, over all clients."""

    def __init__(self, number: int, kind: str) -> None:
        self._free, self._number, self._kind = threading.BoundedSemaphore(number), number, kind

    def take(self) -> Iterator[None]:
        """Hold a slot until the answer has been sent; for a dependency.

        Raises:
            Problem: 429, all are taken.
        """
        if not self._free.acquire(blocking=False):
            raise Problem(429, f"{self._number} {self._kind} are under way already", {"Retry-After": "30"})
        try:
            yield
        finally:
            self._free.release()


async def whole_body(scope: Scope, receive: Receive) -> Receive:
    """Take the request's body in, and give a `receive` that plays it back.

    Raises:
        Problem: 413, it is too large; 408, it did not come in time.
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
    # The rest of the body is not read, so the connection cannot be used again.
    return Problem(413, f"a request may have {MAX_BODY:,} bytes", {"Connection": "close"})


def _replay(messages: list[Message], receive: Receive) -> Receive:
    async def replayed() -> Message:
        return messages.pop(0) if messages else await receive()

    return replayed
