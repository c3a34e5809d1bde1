"""Web pages: `/` shows and steers the studies, `/docs` shows the API.

The files in static/ contain no data of a study, so they need no token. Their scripts request data like other clients,
with the token that a user enters, which is kept in memory only.
"""

import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, Response

from proxytune.tuning.errors import ProxytuneError
from proxytune.tuning.plan.time_left import duration
from proxytune.tuning.service.events import finite
from proxytune.tuning.service.routes import StateOf, StudyOf, documented
from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.store.listing import study_row, unreadable_row
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.summary import summary, trial_row
from proxytune.tuning.tracking.acknowledgement import last_error, num_waiting
from proxytune.tuning.tracking.links import leaderboard_path

FILES = {
    "/": ("studies.html", "text/html"),
    "/docs": ("docs.html", "text/html"),
    "/static/studies.js": ("studies.js", "text/javascript"),
    "/static/drawing.js": ("drawing.js", "text/javascript"),
    "/static/docs.js": ("docs.js", "text/javascript"),
    "/static/pages.css": ("pages.css", "text/css"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
SPEEDS = ("train_sequences_per_second", "tokens_per_second")

router = APIRouter(include_in_schema=False)


def _route_of(name: str, media_type: str) -> Callable[[], Response]:
    text = resources.files("proxytune.tuning.service").joinpath("static", name).read_bytes()
    return lambda: Response(text, media_type=media_type, headers=HEADERS)


for _path, _file in FILES.items():
    router.add_api_route(_path, _route_of(*_file), name=f"page {_path}", response_class=Response)

data = APIRouter(prefix="/page", dependencies=[Depends(documented)], include_in_schema=False)


@data.get("/studies")
def list_for_page(state: StateOf) -> list[dict[str, Any]]:
    """A row for each study, also for those that cannot be read."""
    rows = []
    for name in state.studies.names():
        try:
            rows.append(study_row(state.studies.get(name)))
        except ProxytuneError as error:
            rows.append(unreadable_row(name, error))
    return rows


@data.get("/studies/{name}")
def study_for_page(study: StudyOf, state: StateOf) -> dict[str, Any]:
    """The data of one study on the page."""
    facts = summary(study)
    objective = next(iter(facts["objectives"]))
    trials = study.trials()
    path = leaderboard_path(study.folder / "outbox", study.tracking_uri)
    has_server = study.tracking_uri.startswith("http")
    shown: dict[str, Any] = finite(
        study_row(study)
        | {
            "objectives": facts["objectives"],
            "winner": facts["winner"],
            "left": None if facts["seconds_left"] is None else duration(facts["seconds_left"]),
            "waits": _waits(study, state.runs.status(study.name), facts),
            "steps": study.spec.training["steps"],
            "shown_metrics": [*facts["objectives"], MEMORY, *SPEEDS],
            "curves": {str(trial.number): sorted(trial.intermediate_values.items()) for trial in trials},
            "trials": [trial_row(trial, objective) for trial in trials],
            "mlflow": f"{study.tracking_uri.rstrip('/')}{path}" if has_server and path else None,
            "mlflow_command": f"proxytune ui {study.name} --storage {study.folder.parent}",
        }
    )
    return shown


def _waits(study: Study, job: str | None, facts: dict[str, Any]) -> list[str]:
    """Lines that describe the driver, the job, and what the study waits for."""
    lines = []
    driver = study.driver()
    if driver is not None:
        lines.append(f"{driver} runs the study")
    if job is not None:
        lines.append(f"status of its last job: {job}")
    if facts["paused_by"] is not None:
        lines.append(f"the study is paused by {facts['paused_by']} until it is resumed")
    if facts["waits"] is not None:
        lines.append(f"its share of the cluster: {facts['waits']}")
    for request in study.requests.pending():
        reader = "the driver" if driver is not None else "a driver (no driver is running)"
        lines.append(
            f"request of {request.who} waits for {reader}: {request.kind} {_value(request.value)}".rstrip()
        )
    destination = (study.folder / "outbox", study.tracking_uri, study.spec.tracking.experiment)
    if waiting := num_waiting(*destination):
        lines.append(f"{waiting} events wait for MLflow {last_error(*destination) or ''}".rstrip())
    return lines


def _value(value: dict[str, Any]) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items())


@data.get("/studies/{name}/report")
def report_for_page(study: StudyOf) -> Response:
    """The report of `proxytune report`."""
    from proxytune.tuning.report.page import write_report  # plotly takes a second

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        write_report(study.folder / "outbox", path)
        return Response(path.read_bytes(), media_type="text/html", headers=HEADERS)
