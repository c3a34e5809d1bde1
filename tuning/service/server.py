"""Running the application with uvicorn until SIGINT or SIGTERM: what is being answered is answered, streams are closed."""

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
"""How long a request may take to end when the server is told to go; an export of a large model is what takes longest."""


class _Server(uvicorn.Server):
    """Tells the event streams that the server is leaving, where uvicorn would wait for them; and a signal is no failure."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._proxytune = state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._proxytune.closing.set()
        self.force_exit = self.should_exit  # the second time, at once
        self.should_exit = True


def make_server(settings: Settings) -> _Server:
    """A server that is not running yet."""
    app = make_app(settings)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        http=Connection,
        proxy_headers=False,  # anybody could claim to be another address
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=math.ceil(connections.IDLE_SECONDS),
        ws="none",
    )
    return _Server(config, app.state.proxytune)


def bind(host: str, port: int) -> socket.socket:
    """The listening socket.

    Raises:
        InputError: the address is taken or is none of this machine's.
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
    """Answer requests until a signal ends it."""
    with listener:
        make_server(settings).run(sockets=[listener])
