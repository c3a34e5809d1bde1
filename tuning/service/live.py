"""GET /v1/studies/{name}/events, and what machines ask a server: /health, /ready, /metrics, /openapi.json."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from proxytune.tuning.errors import InputError
from proxytune.tuning.journal.reading import JOURNAL
from proxytune.tuning.service.events import stream
from proxytune.tuning.service.routes import StateOf, StudyOf, documented

router = APIRouter()


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"


@router.get("/health", tags=["server"], summary="Whether the process answers")
async def health() -> Health:
    """For liveness probes. Asks for no token, looks at nothing and waits for nobody."""
    return Health()


@router.get("/ready", tags=["server"], summary="Whether the storage answers")
async def ready(state: StateOf) -> Health:
    """For readiness probes: 503 while the studies' storage does not answer. Asks for no token, and the storage at most
    once a second.
    """
    await state.readiness.check()
    return Health()


@router.get(
    "/metrics",
    tags=["server"],
    summary="Prometheus metrics",
    dependencies=[Depends(documented)],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(state: StateOf) -> Response:
    """The studies as they stand, and the requests of this server."""
    return Response(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/openapi.json", tags=["server"], summary="This document", dependencies=[Depends(documented)])
def openapi_document(request: Request) -> dict[str, Any]:
    """The OpenAPI document of the service."""
    document: dict[str, Any] = request.app.openapi()
    return document


def start_of(
    study: StudyOf,
    last_event_id: Annotated[
        int, Header(ge=0, lt=2**63, description="The id of the last event that was received")
    ] = 0,
) -> int:
    """Where in the journal the stream begins.

    Raises:
        InputError: no event of the study has this id.
    """
    path = study.folder / "outbox" / JOURNAL
    size = path.stat().st_size if path.exists() else 0
    if last_event_id > size:
        raise InputError(
            f"Last-Event-ID: study {study.name} has no event {last_event_id}; 0 starts from the first one"
        )
    return last_event_id


def slot(state: StateOf) -> Iterator[None]:
    """One of the streams at once."""
    yield from state.streams.take()


@router.get(
    "/v1/studies/{name}/events",
    tags=["studies"],
    summary="A study's events as a stream",
    dependencies=[Depends(documented), Depends(slot)],
    response_class=EventSourceResponse,
)
async def stream_events(
    study: StudyOf,
    state: StateOf,
    start: Annotated[int, Depends(start_of)],
    follow: Annotated[
        bool, Query(description="Go on with what is still to come, until the study ends")
    ] = True,
) -> AsyncIterator[ServerSentEvent]:
    """Everything that has happened to the study, in order: begun and ended trials, reports, and who steered it."""
    async for event in stream(study.folder / "outbox", start, follow, state.closing):
        yield event
