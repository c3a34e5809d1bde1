"""Routes of a study's winner, Pareto front, export and confirmation."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query
from starlette.responses import StreamingResponse

from proxytune.tuning.export.choose import choose
from proxytune.tuning.export.request import ExportRequest, Limits
from proxytune.tuning.service.archive import MEDIA_TYPE, tar
from proxytune.tuning.service.events import finite
from proxytune.tuning.service.messages import Chosen, Confirm, Done, Front, Point
from proxytune.tuning.service.problems import NotFound
from proxytune.tuning.service.routes import StateOf, StudyOf, documented
from proxytune.tuning.service.state import who_asks
from proxytune.tuning.spec.ranking import front_objectives
from proxytune.tuning.store.confirmation import read_confirmation
from proxytune.tuning.store.records import TrialRecord, study_records

router = APIRouter(prefix="/v1/studies/{name}", dependencies=[Depends(documented)], tags=["winners"])


def scratch(state: StateOf) -> Iterator[Path]:
    """Hold a slot for exports, and a temporary folder until the response has been sent or aborted."""
    with (
        contextmanager(state.exports.take)(),
        tempfile.TemporaryDirectory(prefix="proxytune-export-") as folder,
    ):
        yield Path(folder)


def _point(record: TrialRecord) -> Point:
    return Point(
        trial=record.trial, values=record.values, params=record.params, metrics=finite(dict(record.metrics))
    )


@router.get("/best", summary="The winner, or the best trial within limits")
def best(study: StudyOf, limits: Annotated[Limits, Query()]) -> Chosen:
    """The study's winner, or the best trial within these limits, with the rule that chose it."""
    records, search = study_records(study), study.spec.search
    request = ExportRequest(**limits.model_dump())
    (found,) = choose(
        study.name, records, search.objectives, study.spec.constraints, request, read_confirmation(study)
    )
    return Chosen(study=study.name, rule=found.text, best=_point(records[found.trial]))


@router.get("/pareto", summary="The Pareto front")
def pareto(study: StudyOf) -> Front:
    """The trials that no other trial dominates; a single objective is compared together with training memory."""
    records, objectives = study_records(study), dict(study.spec.search.objectives)
    points = choose(study.name, records, objectives, study.spec.constraints, ExportRequest(pareto=True))
    return Front(
        study=study.name,
        objectives=front_objectives(objectives),
        points=[_point(records[point.trial]) for point in points],
    )


@router.get(
    "/export",
    summary="A trial, or the Pareto front, as a folder in a tar archive",
    response_class=StreamingResponse,
    responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}},
)
def export(
    study: StudyOf,
    request: Annotated[ExportRequest, Query()],
    folder: Annotated[Path, Depends(scratch)],
) -> StreamingResponse:
    """The output of `proxytune export`: configuration, weights, metrics, provenance and digests, in one folder."""
    from proxytune.tuning.export.export import export_study  # imports torch, which other routes do not need

    written = export_study(study, folder / "export", request)
    name = f"{study.name}-pareto" if request.pareto else f"{study.name}-trial-{written[0].record.trial}"
    headers = {"Content-Disposition": f'attachment; filename="{name}.tar"'}
    return StreamingResponse(tar(folder / "export", name), media_type=MEDIA_TYPE, headers=headers)


@router.post("/confirm", status_code=202, summary="Confirm the winner")
def confirm(
    study: StudyOf,
    state: StateOf,
    who: Annotated[str, Depends(who_asks)],
    body: Annotated[Confirm | None, Body()] = None,
) -> Done:
    """Start or resume a job that retrains the best candidates on fresh seeds and tests the winner once.
    The study `<name>.confirm` shows its progress, `/confirmation` its result.
    """
    body = body or Confirm()
    job = state.runs.confirm(study, top=body.top, seeds=body.seeds, trials=body.trials)
    return Done(study=study.name, action="confirm", who=who, job=job)


@router.get("/confirmation", summary="The confirmation")
def confirmation(study: StudyOf) -> dict[str, Any]:
    """The winner, the candidates with their means and intervals, and the winner on the test split."""
    found = read_confirmation(study)
    if found is None:
        raise NotFound(f"study {study.name} has not been confirmed; POST /v1/studies/{study.name}/confirm")
    shown: dict[str, Any] = finite(found.to_json())
    return shown
