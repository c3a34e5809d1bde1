"""The FastAPI application: gate, metrics and routes around one server's state."""

import functools
import importlib.metadata

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

from proxytune.tuning.service import actions, live, openapi, pages, problems, routes, submission, winners
from proxytune.tuning.service.gate import Gate
from proxytune.tuning.service.metrics import Measured
from proxytune.tuning.service.settings import Settings
from proxytune.tuning.service.state import State

DESCRIPTION = """Studies of `proxytune` over HTTP, with the functions of the command line.

A study is a YAML or JSON file. A POST submits it as a job of the Ray cluster. The server runs no study itself: restarting
it does not affect running studies. Every error response is a problem (RFC 9457): `detail` describes the error, `hint`
suggests what to do.
"""


def make_app(settings: Settings) -> FastAPI:
    """Build a server's application; its state is `app.state.proxytune`."""
    state = State.of(settings)
    app = FastAPI(
        title="proxytune",
        version=importlib.metadata.version("proxytune"),
        description=DESCRIPTION,
        openapi_url=None,  # our own route, behind the gate; FastAPI's pages load scripts from a CDN
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_name,
        middleware=[Middleware(Measured, metrics=state.metrics), Middleware(Gate, settings=settings)],
    )
    app.state.proxytune = state
    problems.install(app)
    for part in (routes, submission, actions, winners, live, pages):
        app.include_router(part.router)
    app.include_router(pages.data)
    app.openapi = functools.cache(lambda: openapi.document(app))  # type: ignore[method-assign]
    return app


def _name(route: APIRoute) -> str:
    return route.name
