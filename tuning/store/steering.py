"""Steering a study from another process: requests in its storage, which the driver handles within seconds.

Each request records its author `who`, by default user and host of this terminal.
"""

import getpass
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.yaml_file import nearest
from proxytune.tuning.store.attributes import ENQUEUED_BY
from proxytune.tuning.store.request import Kind
from proxytune.tuning.store.stored_study import StoredStudy
from proxytune.tuning.store.summary import outcome_of

if TYPE_CHECKING:
    from proxytune.tuning.store.study import Study


def extend(study: StoredStudy, trials: int, who: str | None = None) -> None:
    """Set the total number of trials of the study, to more or fewer than before.

    Raises:
        InputError: fewer than the study has started.
    """
    started = num_started(study)
    if trials < max(1, started):
        raise InputError(f"trials: {trials} is below the {started} that study {study.name} has started")
    study.post(Kind.EXTEND, who or terminal_user(), trials=trials)


def num_started(study: StoredStudy) -> int:
    """Number of started trials, including interrupted ones."""
    return sum(trial.datetime_start is not None for trial in study.trials())


def enqueue(study: "Study", params: Mapping[str, Any], who: str | None = None) -> None:
    """Enqueue a configuration to be tried before those of the sampler. Missing keys are sampled.

    Raises:
        InputError: a key or value that is not in the study's space.
    """
    for key, value in params.items():
        domain = study.spec.search.space.get(key)
        if domain is None:
            raise InputError(
                f"{key} is not searched by {study.name}; {nearest(key, study.spec.search.space)}"
            )
        if not study.spec.space.contains(key, value):
            raise InputError(f"{key}={value} is outside its domain in study {study.name}")
    from proxytune.tuning.store.errors import storage_errors

    with storage_errors():
        study.optuna.enqueue_trial(dict(params), user_attrs={ENQUEUED_BY: who or terminal_user()})


def request_stop(study: StoredStudy, *, now: bool, who: str | None = None) -> str | None:
    """Request the driver of the study to stop: after its running trials, or with `now` at their next update.

    Returns a description of the driver's process. None: the lease is not held, and only a driver that is just starting
    will stop.
    """
    study.post(Kind.STOP, who or terminal_user(), now=now)
    return study.driver()


def is_stopping(study: StoredStudy) -> bool:
    """Whether a stop was requested from the current or starting driver."""
    return study.requests.holder_of(Kind.STOP, Kind.START) is not None


def announce_start(study: StoredStudy, who: str | None = None) -> None:
    """Record that a driver is being started: it ignores earlier stops and pauses and obeys later ones."""
    study.post(Kind.START, who or terminal_user())


def pause(study: StoredStudy, *, on: bool, who: str | None = None) -> None:
    """Pause the study (`on`) or resume it. A pause checkpoints running trials at their next update and starts none."""
    study.post(Kind.PAUSE if on else Kind.RESUME, who or terminal_user())


def cancel_trial(study: StoredStudy, number: int, who: str | None = None) -> None:
    """Request the driver to end one trial permanently at its next update.

    Raises:
        InputError: the trial does not exist or has ended.
    """
    trials = study.trials()
    if not 0 <= number < len(trials):
        raise InputError(f"study {study.name} has no trial {number}; it has {len(trials)} so far")
    if trials[number].state.name not in ("RUNNING", "WAITING"):
        raise InputError(
            f"trial {number} of study {study.name} has already ended ({outcome_of(trials[number])})"
        )
    study.post(Kind.CANCEL, who or terminal_user(), trial=number)


def terminal_user() -> str:
    """user@host of this terminal."""
    return f"{user_name()}@{socket.gethostname()}"


def user_name() -> str:
    """The name of the process's user; its number if the system does not know it, as in a container run with --user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError until Python 3.12
        return str(os.getuid())
