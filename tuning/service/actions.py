"""Steering over HTTP: the wishes of `store/steering.py`, heard by the study's driver within seconds."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends

from proxytune.tuning.service.messages import Done, Enqueue, Extend, Stop
from proxytune.tuning.service.routes import StateOf, StudyOf, documented
from proxytune.tuning.service.state import who_asks
from proxytune.tuning.store import steering

Who = Annotated[str, Depends(who_asks)]
router = APIRouter(prefix="/v1/studies/{name}", dependencies=[Depends(documented)], tags=["actions"])


@router.post("/stop", status_code=202, summary="Stop a study, or one trial")
def stop(study: StudyOf, state: StateOf, who: Who, wish: Annotated[Stop | None, Body()] = None) -> Done:
    """After its running trials, or `now` at their next update with a checkpoint. `resume` goes on. With `trial`, that trial
    alone ends, for good.
    """
    wish = wish or Stop()
    if wish.trial is not None:
        steering.cancel_trial(study, wish.trial, who)
        return Done(study=study.name, action=f"stop trial {wish.trial}", who=who, job=None)
    steering.request_stop(study, now=wish.now, who=who)
    if wish.now or state.runs.status(study.name) == "PENDING":
        state.runs.end(study.name)
    return Done(study=study.name, action="stop now" if wish.now else "stop", who=who, job=None)


@router.post("/pause", status_code=202, summary="Pause a study")
def pause(study: StudyOf, who: Who) -> Done:
    """Running trials hand their slots back with a checkpoint; the driver stays and starts none until `resume`."""
    steering.pause(study, on=True, who=who)
    return Done(study=study.name, action="pause", who=who, job=None)


@router.post("/resume", status_code=202, summary="Let a study go on")
def resume(study: StudyOf, state: StateOf, who: Who) -> Done:
    """A paused study goes on; one that no driver runs (stopped, killed, or extended after its end) is submitted again."""
    job = None
    if study.driver() is None or steering.is_stopping(study):
        job = state.runs.start(study, study.spec, who)
    else:
        steering.pause(study, on=False, who=who)
    return Done(study=study.name, action="resume", who=who, job=job)


@router.post("/extend", status_code=202, summary="Set a study's budget")
def extend(study: StudyOf, who: Who, wish: Extend) -> Done:
    """Set the number of trials in all, but no fewer than were started. Works while it runs; one that has ended goes on
    with `resume`.
    """
    steering.extend(study, wish.trials, who)
    return Done(study=study.name, action=f"extend to {wish.trials} trials", who=who, job=None)


@router.post("/enqueue", status_code=202, summary="Put a configuration first")
def enqueue(study: StudyOf, who: Who, wish: Enqueue) -> Done:
    """It is run before anything the sampler proposes; keys that are left out are sampled."""
    steering.enqueue(study, wish.params, who)
    return Done(study=study.name, action="enqueue", who=who, job=None)
