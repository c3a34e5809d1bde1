"""Read-only routes of the studies, with the functions of the command line."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from fastapi.security import HTTPBearer

from proxytune.tuning.errors import ProxytuneError
from proxytune.tuning.service.events import finite
from proxytune.tuning.service.messages import (
    StudyDetail,
    StudyLine,
    StudyPage,
    Trial,
    TrialPage,
    point,
)
from proxytune.tuning.service.state import State, state_of
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.summary import outcome_of, summary, trial_row
from proxytune.tuning.tracking.acknowledgement import last_error, num_waiting

documented = HTTPBearer(
    auto_error=False, description="A token of the server's token file (may be omitted on loopback)"
)
"""For the OpenAPI document; the gate in front of all routes checks the token."""

StateOf = Annotated[State, Depends(state_of)]
StudyName = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="The study's name",
        examples=["listops-mini"],
    ),
]


def named_study(name: StudyName, state: StateOf) -> Study:
    """The study of the path."""
    return state.studies.get(name)


StudyOf = Annotated[Study, Depends(named_study)]
Offset = Annotated[int, Query(ge=0, le=10**6, description="How many to skip")]

_SHOWN = ("study", "trials", "budget", "outcomes", "objectives", "winner", "waits", "seconds_left")

router = APIRouter(prefix="/v1", dependencies=[Depends(documented)], tags=["studies"])


@router.get("/studies", summary="List the studies")
def list_studies(
    state: StateOf, offset: Offset = 0, limit: Annotated[int, Query(ge=1, le=50)] = 50
) -> StudyPage:
    """All studies of the storage, sorted by name."""
    names = state.studies.names()
    return StudyPage(
        total=len(names), studies=[_line(state, name) for name in names[offset : offset + limit]]
    )


def _line(state: State, name: str) -> StudyLine:
    try:
        study = state.studies.get(name)
        facts = summary(study)
        driver = study.driver()
    except ProxytuneError as error:  # listed with its error
        return StudyLine(study=name, trials=0, budget=0, outcomes={}, driver=None, error=str(error))
    shown = {key: facts[key] for key in ("study", "trials", "budget", "outcomes")}
    return StudyLine(**shown, driver=driver, error=None)


@router.get("/studies/{name}", summary="The state of a study")
def show_study(study: StudyOf, state: StateOf) -> StudyDetail:
    """Trials by outcome, the winner or the Pareto front, the driver, events that wait for MLflow."""
    facts = summary(study)
    destination = (study.folder / "outbox", study.tracking_uri, study.spec.tracking.experiment)
    return StudyDetail(
        **{key: facts[key] for key in _SHOWN},
        best=[point(winner) for winner in facts["best"]],
        driver=study.driver(),
        job=state.runs.status(study.name),
        events_waiting=num_waiting(*destination),
        tracking_error=last_error(*destination),
    )


@router.get("/studies/{name}/spec", summary="A study's spec")
def show_spec(study: StudyOf) -> dict[str, Any]:
    """The study file with all defaults filled in."""
    shown: dict[str, Any] = finite(study.spec.model_dump(mode="json"))
    return shown


@router.get("/studies/{name}/trials", summary="A study's trials")
def list_trials(
    study: StudyOf,
    outcome: Annotated[Outcome | None, Query(description="Only trials with this outcome")] = None,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> TrialPage:
    """The trials sorted by number, with outcome, parameters and last metrics."""
    trials = [trial for trial in study.trials() if outcome is None or outcome_of(trial) == outcome]
    objective = next(iter(study.spec.search.objectives))
    rows = [finite(trial_row(trial, objective)) for trial in trials[offset : offset + limit]]
    return TrialPage(total=len(trials), trials=[Trial(**row) for row in rows])
