"""The best trials of a study over HTTP: within limits, as a Pareto front, as a folder to run again."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query
from starlette.responses import StreamingResponse

from proxytune.tuning.errors import InputError
from proxytune.tuning.export.choose import Limits, choose, choose_front, front_objectives
from proxytune.tuning.export.export import export_study
from proxytune.tuning.export.records import TrialRecord, study_records
from proxytune.tuning.service.archive import MEDIA_TYPE, tar
from proxytune.tuning.service.events import finite
from proxytune.tuning.service.messages import Chosen, Confirm, Done, Front, Point
from proxytune.tuning.service.problems import NotFound
from proxytune.tuning.service.routes import StateOf, StudyOf, documented
from proxytune.tuning.service.state import who_asks
from proxytune.tuning.spec.constraints import Constraint, parse_constraint
from proxytune.tuning.store.confirmation import read_confirmation
from proxytune.tuning.store.study import Study

router = APIRouter(prefix="/v1/studies/{name}", dependencies=[Depends(documented)], tags=["winners"])


def asked_limits(
    max_memory_mib: Annotated[
        float | None,
        Query(gt=0, allow_inf_nan=False, description="Of train_memory_mib_per_sequence", examples=[40]),
    ] = None,
    min_throughput: Annotated[
        float | None,
        Query(gt=0, allow_inf_nan=False, description="Of train_sequences_per_second", examples=[100]),
    ] = None,
) -> Limits:
    """Bounds beside the study's own constraints."""
    return Limits(max_memory_mib=max_memory_mib, min_throughput=min_throughput)


LimitsOf = Annotated[Limits, Depends(asked_limits)]


def scratch(state: StateOf) -> Iterator[Path]:
    """One of the few exports at once, and a folder that is gone when the answer has been sent, or broken off."""
    with (
        contextmanager(state.exports.take)(),
        tempfile.TemporaryDirectory(prefix="proxytune-export-") as folder,
    ):
        yield Path(folder)


def _constraints(study: Study) -> list[Constraint]:
    return [parse_constraint(*item) for item in study.spec.search.constraints.items()]


def _point(record: TrialRecord) -> Point:
    return Point(
        trial=record.trial, values=record.values, params=record.params, metrics=finite(dict(record.metrics))
    )


@router.get("/best", summary="The best trial, within limits")
def best(study: StudyOf, limits: LimitsOf) -> Chosen:
    """The best trial of the full budget within the study's constraints and these limits, and by which rule."""
    records, objectives = study_records(study), dict(study.spec.search.objectives)
    chosen = choose(study.name, records, objectives, limits=limits, constraints=_constraints(study))
    return Chosen(study=study.name, rule=chosen.text, best=_point(records[chosen.trial]))


@router.get("/pareto", summary="The Pareto front")
def pareto(study: StudyOf) -> Front:
    """The trials that no other one beats in every objective; a single objective is weighed against training memory."""
    records, objectives = study_records(study), dict(study.spec.search.objectives)
    points = choose_front(study.name, records, objectives, _constraints(study))
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
    limits: LimitsOf,
    folder: Annotated[Path, Depends(scratch)],
    trial: Annotated[int | None, Query(ge=0, le=10**6, description="Its number; default: the winner")] = None,
    pareto: Annotated[bool, Query(description="Every point of the Pareto front instead")] = False,
) -> StreamingResponse:
    """What `proxytune export` writes: configuration, weights, metrics, provenance and sums, below one folder."""
    asked = {"trial": trial is not None, "pareto": pareto, "limits": bool(limits)}
    if sum(asked.values()) > 1:
        raise InputError(
            f"{' and '.join(name for name, given in asked.items() if given)}: ask for one of them"
        )
    written = export_study(study, folder / "export", number=trial, pareto=pareto, limits=limits)
    name = f"{study.name}-pareto" if pareto else f"{study.name}-trial-{written[0].record.trial}"
    headers = {"Content-Disposition": f'attachment; filename="{name}.tar"'}
    return StreamingResponse(tar(folder / "export", name), media_type=MEDIA_TYPE, headers=headers)


@router.post("/confirm", status_code=202, summary="Confirm the winner")
def confirm(
    study: StudyOf,
    state: StateOf,
    who: Annotated[str, Depends(who_asks)],
    wish: Annotated[Confirm | None, Body()] = None,
) -> Done:
    """A job of the cluster trains the best candidates again on fresh seeds and tests the winner once; the same request
    goes on with one that was stopped. What it is doing: the study `<name>.confirm`. Its result: `/confirmation`.
    """
    wish = wish or Confirm()
    job = state.runs.confirm(study, top=wish.top, seeds=wish.seeds)
    return Done(study=study.name, action="confirm", who=who, job=job)


@router.get("/confirmation", summary="What the confirmation found")
def confirmation(study: StudyOf) -> dict[str, Any]:
    """The winner, the candidates with their means and intervals, and the winner on the test split."""
    found = read_confirmation(study)
    if found is None:
        raise NotFound(f"study {study.name} has not been confirmed; POST /v1/studies/{study.name}/confirm")
    shown: dict[str, Any] = finite(found.to_json())
    return shown
