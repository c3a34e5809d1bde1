"""Steering a study from elsewhere: through its storage, heard by the driver within seconds.

Each wish carries `who` had it; by default user and host of this terminal.
"""

import getpass
import socket
from collections.abc import Mapping
from typing import Any

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.yaml_file import nearest
from proxytune.tuning.store.attributes import BUDGET, CANCEL, ENQUEUED_BY, EXTENDED_BY, PAUSE, STOP
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.summary import outcome_of


def extend(study: Study, trials: int, who: str | None = None) -> int:
    """Let the study take so many trials in all; a driver that runs it hears of it within seconds.

    Raises:
        InputError: no more than it may take already.
    """
    if trials <= study.budget:
        raise InputError(
            f"trials: {trials} does not extend study {study.name}: it may take {study.budget} already"
        )
    with storage_errors():
        study.optuna.set_user_attr(EXTENDED_BY, who or terminal_user())
        study.optuna.set_user_attr(BUDGET, trials)
    return trials


def enqueue(study: Study, params: Mapping[str, Any], who: str | None = None) -> None:
    """Put a configuration before anything that the sampler proposes; keys that are left out are sampled.

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
    with storage_errors():
        study.optuna.enqueue_trial(dict(params), user_attrs={ENQUEUED_BY: who or terminal_user()})


def request_stop(study: Study, *, now: bool, who: str | None = None) -> None:
    """Ask the driver of the study to stop: after its running trials, or `now` at their next update."""
    with storage_errors():
        study.optuna.set_user_attr(STOP, {"who": who or terminal_user(), "now": now})


def pause(study: Study, *, on: bool, who: str | None = None) -> None:
    """Hand running trials back at their next update and start none, until it is called with `on` false."""
    with storage_errors():
        study.optuna.set_user_attr(PAUSE, (who or terminal_user()) if on else None)


def cancel_trial(study: Study, number: int, who: str | None = None) -> None:
    """Ask the driver to end one trial for good at its next update.

    Raises:
        InputError: there is no such trial, or it has ended.
    """
    trials = study.trials()
    if not 0 <= number < len(trials):
        raise InputError(f"study {study.name} has no trial {number}; it has {len(trials)} so far")
    if trials[number].state.is_finished():
        raise InputError(
            f"trial {number} of study {study.name} has ended already ({outcome_of(trials[number])})"
        )
    with storage_errors():
        cancelled = dict(study.optuna.user_attrs.get(CANCEL, {}))
        study.optuna.set_user_attr(CANCEL, cancelled | {str(number): who or terminal_user()})


def terminal_user() -> str:
    """user@host, who sits at this terminal."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
