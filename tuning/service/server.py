"""Run the application with uvicorn until SIGINT or SIGTERM; pending requests are completed, event streams are closed."""

import math
import socket
from types import FrameType

import uvicorn

from proxytune.tuning.errors import InputError
from proxytune.tuning.service import connections
from proxytune.tuning.service.app import make_app
from proxytune.tuning.service.connections import Connection
from proxytune.tuning.service.settings import Settings
from proxytune.tuning.service.state import State

GRACE_SECONDS = 20
"""How long pending requests may take after a signal; exports of large models take longest."""


class _Server(uvicorn.Server):
    """Closes event streams on a signal, instead of waiting for them; a signal is not an error."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._proxytune = state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._proxytune.closing.set()
        self.force_exit = self.should_exit  # a second signal exits at once
        self.should_exit = True


def make_server(settings: Settings) -> _Server:
    """Build a server; the caller runs it."""
    app = make_app(settings)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        http=Connection,
        proxy_headers=False,  # a client could claim any address
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=math.ceil(connections.IDLE_SECONDS),
        ws="none",
    )
    return _Server(config, app.state.proxytune)


def bind(host: str, port: int) -> socket.socket:
    """The listening socket.

    Raises:
        InputError: the address is taken or does not belong to this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(connections.TOTAL)
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"cannot listen on {host} port {port}: {reason}; choose another host or port"
        ) from None
    return listener


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve requests until a signal."""
    with listener:
        make_server(settings).run(sockets=[listener])
