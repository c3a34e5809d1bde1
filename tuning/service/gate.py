"""Checks of every request before a route reads it: origin, token, rate, size."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from proxytune.tuning.service.auth import Token
from proxytune.tuning.service.limits import RateLimit, whole_body
from proxytune.tuning.service.pages import FILES
from proxytune.tuning.service.problems import Problem, response_to
from proxytune.tuning.service.settings import Settings

OPEN = {"/health", "/ready", *FILES}
"""Paths without a token and a rate limit: probes and the pages' files. They contain no data of a study."""
STEERING = {"stop", "pause", "resume", "extend", "enqueue"}
"""Last parts of paths whose POST requests need the scope steer; other POST requests need submit."""
_LOCAL_USER = Token("local", "submit", b"")
_LOCAL_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)


class Gate:
    """ASGI middleware in front of all routes and unknown paths. Stores the holder of the token as `who` in the request's state."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._rate = RateLimit(settings.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a websocket, which no route accepts; uvicorn closes the connection
        try:
            headers = dict(scope["headers"])
            if self._settings.loopback:
                _refuse_web_pages(headers)
            if headers.keys() >= {b"content-length", b"transfer-encoding"}:
                raise Problem(
                    400,
                    "a request has either Content-Length or Transfer-Encoding, not both",
                    {"Connection": "close"},
                )
            if scope["path"] in OPEN:
                await self._app(scope, receive, send)
                return
            token = self._token(headers)
            who = token and token.name
            client = f"token {who}" if who else f"address {(scope.get('client') or ['?'])[0]}"
            heavy = scope["method"] not in ("GET", "HEAD") or scope["path"].endswith("/export")
            self._rate.check(client, 10 if heavy else 1)
            if token is None:
                raise Problem(401, "no valid token", {"WWW-Authenticate": 'Bearer realm="proxytune"'})
            if not token.may(needed := _scope(scope["method"], scope["path"])):
                raise Problem(
                    403, f"token {who} has the scope {token.scope}; this request needs the scope {needed}"
                )
            scope.setdefault("state", {})["who"] = f"{who}@http"
            receive = await whole_body(scope, receive)
        except Problem as problem:
            await response_to(problem)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _token(self, headers: dict[bytes, bytes]) -> Token | None:
        if self._settings.tokens:
            return self._settings.tokens.bearer(headers.get(b"authorization"))
        return _LOCAL_USER if self._settings.loopback else None


def _scope(method: str, path: str) -> str:
    """The scope that a request needs."""
    if method in ("GET", "HEAD"):
        return "metrics" if path == "/metrics" else "read"
    return "steer" if path.rpartition("/")[2] in STEERING else "submit"


def _refuse_web_pages(headers: dict[bytes, bytes]) -> None:
    """On loopback, where a token may not be required, reject requests that a foreign web page makes through a browser.

    A page after DNS rebinding to 127.0.0.1 sends its own Host; a cross-origin POST sends an Origin.
    The service's own pages have the same origin; another port of this machine has not.

    Raises:
        Problem: 403.
    """
    host = headers.get(b"host", b"").decode("latin-1")
    if not _LOCAL_HOST.fullmatch(host):
        raise Problem(
            403, f"this server accepts the hosts localhost and loopback addresses, not {host[:100]!r}"
        )
    own = f"http://{host}".encode("latin-1")
    if headers.get(b"origin", own) != own or headers.get(b"sec-fetch-site", b"none") not in (
        b"none",
        b"same-origin",
    ):
        raise Problem(403, "this server accepts requests of no web page but its own")
