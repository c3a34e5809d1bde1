"""Which trials of a study are confirmed: the best feasible ones, or the Pareto front, each configuration once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.errors import InputError
from proxytune.tuning.search.rungs import Entry, rank
from proxytune.tuning.store.study import Study

SEED = "training.seed"


def candidates(study: Study, top: int) -> list[FrozenTrial]:
    """The `top` best trials of the full budget within the constraints, best first, or all where there are fewer.

    With several objectives: the Pareto front; where it is longer, its points with the most space around them.

    Raises:
        InputError: there is none, and which trial comes nearest to the constraints.
    """
    feasible = _feasible(study)
    directions = list(study.spec.search.objectives.values())
    if len(directions) == 1:
        order = sorted(feasible, key=lambda trial: trial.values[0], reverse=directions[0] == "maximize")
    else:
        front = {trial.number: trial for trial in study.best()}
        signs = [1.0 if direction == "minimize" else -1.0 for direction in directions]
        entries = {
            number: Entry(values=tuple(np.multiply(signs, trial.values))) for number, trial in front.items()
        }
        order = [front[number] for number in rank(entries)]
    return _once_each(study, order)[:top]


def _feasible(study: Study) -> list[FrozenTrial]:
    complete = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    if not complete:
        raise InputError(f"study {study.name} has no trial of the full budget yet; run it further")
    feasible = [trial for trial in complete if all(excess <= 0 for excess in trial.constraints.values())]
    if not feasible:
        nearest = min(
            complete, key=lambda trial: sum(max(0.0, excess) for excess in trial.constraints.values())
        )
        rules = study.spec.search.constraints
        broken = ", ".join(
            f"{name} is {excess:.4g} beyond {rules.get(name, '')}".rstrip()
            for name, excess in nearest.constraints.items()
            if excess > 0
        )
        raise InputError(
            f"no trial of study {study.name} is within its constraints; trial {nearest.number} comes nearest: {broken}"
        )
    return feasible


def _once_each(study: Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Without trials that are a better one's configuration again, or its configuration with another seed."""
    seen: set[str] = set()
    kept = []
    for trial in trials:
        spec = study.spec.trial(without_seed(trial))
        key = spec.model_dump_json(include={"task", "model", "training"})
        if key not in seen:
            kept.append(trial)
        seen.add(key)
    return kept


def without_seed(trial: FrozenTrial) -> dict[str, Any]:
    """The trial's searched values, apart from a seed among them."""
    return {key: value for key, value in trial.params.items() if key != SEED}


def fresh_seeds(study: Study, number: int) -> tuple[int, ...]:
    """The lowest `number` seeds that the search did not train from."""
    used = {int(study.spec.training["seed"])} | {
        int(trial.params[SEED]) for trial in study.trials() if SEED in trial.params
    }
    return tuple([seed for seed in range(number + len(used)) if seed not in used][:number])
