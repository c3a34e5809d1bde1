"""The event stream of a study, and the routes for machines: /health, /ready, /metrics, /openapi.json."""

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
    """The server responds."""

    status: Literal["ok"] = "ok"


@router.get("/health", tags=["server"], summary="Whether the process responds")
async def health() -> Health:
    """For liveness probes. Needs no token and accesses no storage."""
    return Health()


@router.get("/ready", tags=["server"], summary="Whether the storage responds")
async def ready(state: StateOf) -> Health:
    """For readiness probes: 503 while the studies' storage does not respond. Needs no token, and queries the storage at
    most once per second.
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
    """The state of the studies, and the requests of this server."""
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
    """The offset in the journal at which the stream starts.

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
    """Hold one of the slots for event streams."""
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
    follow: Annotated[bool, Query(description="Continue with future events until the study ends")] = True,
) -> AsyncIterator[ServerSentEvent]:
    """All events of the study in order: starts and ends of trials, reports, and steering requests."""
    async for event in stream(study.folder / "outbox", start, follow, state.closing):
        yield event
