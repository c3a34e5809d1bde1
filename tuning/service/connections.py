"""Connections of one server: a place belongs to a request that the gate has let in, everything else gives way."""

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

TOTAL = 300
"""Connections at once."""
PER_ADDRESS = 150
"""Connections of one address at once; behind a proxy all clients have one."""
IDLE_SECONDS = 15.0
"""From the beginning of a connection, or the end of an answer, until a request must have been let in."""


class Connection(H11Protocol):
    """uvicorn's connection with a deadline, which sent bytes do not postpone, and a limit an address.

    One connection too many closes the one that has waited longest, of the address that has most. So connections that
    send nothing, or never a whole request, or no token, or read no answer, keep no place that another client needs.
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
        if not self._answers_somebody():
            self.transport.abort()

    def _answers_somebody(self) -> bool:
        """Whether a request is being answered that the gate has let in."""
        return bool(self.cycle and not self.cycle.response_complete and "who" in self.scope["state"])

    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _make_room(self) -> None:
        all_: set[Any] = self.connections
        counts = Counter(one._address() for one in all_)
        if counts[self._address()] > PER_ADDRESS:
            crowd = [one for one in all_ if one._address() == self._address()]
        elif len(all_) > TOTAL:
            crowd = list(all_)
        else:
            return
        waiting = [one for one in crowd if not one._answers_somebody()]  # this one is among them
        loser = max(waiting, key=lambda one: (counts[one._address()], -one._since))
        all_.discard(loser)
        loser.transport.abort()
