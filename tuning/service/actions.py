"""Steering over HTTP: the requests of `store/steering.py`, which the study's driver reads within seconds."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends

from proxytune.tuning.service.messages import Done, Enqueue, Extend, Stop
from proxytune.tuning.service.routes import StateOf, StudyOf, documented
from proxytune.tuning.service.state import who_asks
from proxytune.tuning.store import steering

Who = Annotated[str, Depends(who_asks)]
router = APIRouter(prefix="/v1/studies/{name}", dependencies=[Depends(documented)], tags=["actions"])


@router.post("/stop", status_code=202, summary="Stop a study, or one trial")
def stop(study: StudyOf, state: StateOf, who: Who, body: Annotated[Stop | None, Body()] = None) -> Done:
    """Stop after the running trials have ended, or with `now` at their next update, with a checkpoint. `resume` continues
    the study. With `trial`, stop only that trial; it cannot be resumed.
    """
    body = body or Stop()
    if body.trial is not None:
        steering.cancel_trial(study, body.trial, who)
        return Done(study=study.name, action=f"stop trial {body.trial}", who=who, job=None)
    steering.request_stop(study, now=body.now, who=who)
    if body.now or state.runs.status(study.name) == "PENDING":
        state.runs.end(study.name)
    return Done(study=study.name, action="stop now" if body.now else "stop", who=who, job=None)


@router.post("/pause", status_code=202, summary="Pause a study")
def pause(study: StudyOf, who: Who) -> Done:
    """Running trials save a checkpoint and release their slots; the driver stays and starts no trial until `resume`."""
    steering.pause(study, on=True, who=who)
    return Done(study=study.name, action="pause", who=who, job=None)


@router.post("/resume", status_code=202, summary="Resume a study")
def resume(study: StudyOf, state: StateOf, who: Who) -> Done:
    """Resume a paused study, or submit a study without a driver again (stopped, killed, or extended after its end)."""
    job = None
    if study.driver() is None or steering.is_stopping(study):
        job = state.runs.start(study, study.spec, who)
    else:
        steering.pause(study, on=False, who=who)
    return Done(study=study.name, action="resume", who=who, job=job)


@router.post("/extend", status_code=202, summary="Set a study's budget")
def extend(study: StudyOf, who: Who, body: Extend) -> Done:
    """Set the total number of trials; it cannot be smaller than the number of started trials. Works while the study runs;
    a study that has ended continues with `resume`.
    """
    steering.extend(study, body.trials, who)
    return Done(study=study.name, action=f"extend to {body.trials} trials", who=who, job=None)


@router.post("/enqueue", status_code=202, summary="Enqueue a configuration")
def enqueue(study: StudyOf, who: Who, body: Enqueue) -> Done:
    """Run a configuration before those that the sampler proposes; missing keys are sampled."""
    steering.enqueue(study, body.params, who)
    return Done(study=study.name, action="enqueue", who=who, job=None)
