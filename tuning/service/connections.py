"""Connections of one server: limits and deadlines for connections without an admitted request."""

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

TOTAL = 300
"""Concurrent connections."""
PER_ADDRESS = 150
"""Concurrent connections per address; behind a proxy all clients have the same address."""
IDLE_SECONDS = 15.0
"""From the start of a connection, or the end of a response, until the gate must have admitted a request."""


class Connection(H11Protocol):
    """uvicorn's connection with a deadline, which received bytes do not extend, and a limit per address.

    Above a limit, the connection that has been idle longest is closed, of the address with the most connections. So
    clients that send nothing, no complete request or no token, or read no response, do not block other clients.
    """

    _since: float
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()
        self._make_room()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._since = self.loop.time()
        self._deadline = self.loop.call_later(IDLE_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if not self._is_admitted():
            self.transport.abort()

    def _is_admitted(self) -> bool:
        """Whether it is responding to a request that the gate has admitted."""
        return bool(self.cycle and not self.cycle.response_complete and "who" in self.scope["state"])

    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _make_room(self) -> None:
        all_: set[Any] = self.connections
        counts = Counter(other._address() for other in all_)
        if counts[self._address()] > PER_ADDRESS:
            crowd = [other for other in all_ if other._address() == self._address()]
        elif len(all_) > TOTAL:
            crowd = list(all_)
        else:
            return
        idle = [other for other in crowd if not other._is_admitted()]  # contains self
        closed = max(idle, key=lambda other: (counts[other._address()], -other._since))
        all_.discard(closed)
        closed.transport.abort()
