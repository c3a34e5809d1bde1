"""Steering a study from another terminal: through its storage, heard by the driver within seconds."""

import getpass
import socket
from collections.abc import Mapping
from typing import Any

from proxytune.tuning.errors import InputError
from proxytune.tuning.ledger import BUDGET, STOP
from proxytune.tuning.storage import storage_errors
from proxytune.tuning.study import Study
from proxytune.tuning.yaml_file import nearest


def extend(study: Study, trials: int) -> int:
    """Let the study take so many trials in all; a driver that runs it hears of it within seconds.

    Raises:
        InputError: no more than it may take already.
    """
    if trials <= study.budget:
        raise InputError(
            f"--trials {trials} does not extend study {study.name}: it may take {study.budget} already"
        )
    with storage_errors():
        study.optuna.set_user_attr(BUDGET, trials)
    return trials


def enqueue(study: Study, params: Mapping[str, Any]) -> None:
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
        if not domain.contains(value):
            raise InputError(f"{key}={value} is outside its domain in study {study.name}")
    with storage_errors():
        study.optuna.enqueue_trial(dict(params))


def request_stop(study: Study, *, now: bool) -> None:
    """Ask the driver of the study to stop: after its running trials, or `now` at their next turn."""
    with storage_errors():
        study.optuna.set_user_attr(STOP, {"who": f"{getpass.getuser()}@{socket.gethostname()}", "now": now})
