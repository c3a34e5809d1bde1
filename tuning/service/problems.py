"""Error responses: JSON problems (RFC 9457) with the message of the command line and a hint."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import compile_path

from proxytune.datasets import DataError
from proxytune.models.errors import ConfigError
from proxytune.tuning.errors import (
    HeldError,
    InputError,
    OtherSpecError,
    ProxytuneError,
    StorageError,
)

MEDIA_TYPE = "application/problem+json"
HINTS = {
    400: "send the body that /openapi.json describes for this path",
    401: "send the header Authorization: Bearer TOKEN with a valid token",
    403: "use a token with that scope; without tokens, access the server from its own machine as localhost or 127.0.0.1, and only from its own web pages",
    404: "GET /v1/studies lists the studies, /openapi.json the paths",
    405: "the header Allow lists the methods of this path",
    408: "send the request without delays",
    409: "rename the study, or restore the named keys; a study that is held can be resumed when its driver has ended",
    413: "send a smaller request",
    415: "send Content-Type: application/yaml or application/json",
    422: "correct the named value and send the request again",
    429: "wait for the number of seconds in the header Retry-After",
    500: "the server's log has the details",
    503: "acknowledged results are safe; try again later, or see the server's log",
}
"""What to do, by status; part of every problem and of the OpenAPI document."""


class NotFound(InputError):
    """The server has no study of that name."""


class ClusterError(ProxytuneError):
    """The cluster that runs this server's studies rejects or does not answer a request."""


class NoCluster(ProxytuneError):
    """The server was started without a cluster, so it cannot start a study."""


class ProblemBody(BaseModel):
    """What went wrong."""

    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    detail: str = Field(
        examples=["study: search.trials: 0 is refused: input should be greater than or equal to 1"]
    )
    error: str = Field(description="The exception class of the Python client", examples=["InputError"])
    hint: str = Field(description="What to do", examples=[HINTS[422]])


class Problem(Exception):
    """An error with an HTTP status; raised where no error of the package fits."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.headers = status, headers or {}


def response_to(error: Exception) -> Response:
    """The response for an error."""
    status, kind = _status(error)
    detail = (
        str(error).encode(errors="replace").decode() or type(error).__name__
    )  # a lone surrogate cannot be encoded
    if status == 500:
        detail = "the server failed to process this request"  # uvicorn logs the rest
    body = ProblemBody(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        error=kind.__name__,
        hint=HINTS.get(status, ""),
    )
    headers = error.headers if isinstance(error, Problem) else {}
    return JSONResponse(body.model_dump(), status, headers, media_type=MEDIA_TYPE)


def _status(error: Exception) -> tuple[int, type[ProxytuneError]]:
    if isinstance(error, Problem):
        return error.status, InputError
    if isinstance(error, NotFound):
        return 404, InputError
    if isinstance(error, OtherSpecError | HeldError):
        return 409, type(error)
    if isinstance(error, InputError | ConfigError | DataError):
        return 422, InputError
    if isinstance(error, NoCluster):
        return 409, ProxytuneError
    if isinstance(error, ClusterError):
        return 503, ProxytuneError
    if isinstance(error, StorageError | OSError):
        return 503, StorageError
    return 500, ProxytuneError


def install(app: FastAPI) -> None:
    """Register the error handlers, also for FastAPI's own errors."""

    async def known(_request: Request, error: Exception) -> Response:
        return response_to(error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette lists the methods of only one of the path's routes
            headers["Allow"] = ", ".join(_methods(app, request.url.path))
        return response_to(Problem(error.status_code, str(error.detail), headers))

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first: Any = error.errors()[0]
        if first["type"] == "json_invalid":
            return response_to(Problem(400, f"the body is not JSON: {first['ctx']['error']}"))
        where = ".".join(str(part) for part in first["loc"])
        return response_to(Problem(422, f"{where}: {first['msg']}"))

    kinds: tuple[type[Exception], ...] = (Problem, ProxytuneError, ConfigError, DataError, OSError, Exception)
    for kind in kinds:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def _methods(app: FastAPI, path: str) -> list[str]:
    """All methods of a path."""
    return sorted(
        method.upper()
        for template, operations in app.openapi()["paths"].items()
        if compile_path(template)[0].fullmatch(path)
        for method in operations
    )
