"""Selects the trials to confirm: the best feasible trials, or the Pareto front, and named ones, each configuration once."""

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.errors import InputError
from proxytune.tuning.search.rungs import Entry, rank
from proxytune.tuning.spec import ranking
from proxytune.tuning.spec.constraints import feasible, violation
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.store.attributes import END
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.summary import outcome_of
from proxytune.tuning.store.winner import eligible

SEED = "training.seed"


def candidates(study: Study, top: int) -> list[FrozenTrial]:
    """The `top` best feasible trials of the full budget, best first, or all of them if there are fewer.

    With several objectives: the Pareto front; if it is longer, its points with the largest crowding distances.

    Raises:
        InputError: there is no candidate; the message names the trial nearest to the constraints.
    """
    points, objectives = eligible(study), study.spec.search.objectives
    trials = study.trials()
    if not points:
        raise InputError(_nearest(study, trials))
    if len(objectives) == 1:
        order = ranking.ordered(points, objectives)
    else:
        entries = {
            number: Entry(values=ranking.signed(points[number], objectives))
            for number in ranking.front(points, objectives)
        }
        order = rank(entries)
    return _once_each(study, [trials[number] for number in order])[:top]


def with_named(study: Study, best: Sequence[FrozenTrial], numbers: Sequence[int]) -> list[FrozenTrial]:
    """The candidates `best`, then the trials with these numbers whose configuration is not among them.

    Raises:
        InputError: a trial did not reach the full budget or violates the constraints.
    """
    points, trials = eligible(study), study.trials()
    for number in numbers:
        if number not in points:
            outcome = outcome_of(trials[number]) if 0 <= number < len(trials) else "not there"
            if outcome is Outcome.COMPLETE:
                outcome = "outside the constraints"
            raise InputError(
                f"trial {number} of study {study.name} is {outcome}; only trials that reached the full budget within the "
                "constraints can be confirmed"
            )
    return _once_each(study, [*best, *(trials[number] for number in numbers)])


def _nearest(study: Study, trials: Sequence[FrozenTrial]) -> str:
    """Message explaining why there is no candidate, with the complete trial nearest to the constraints."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return f"study {study.name} has no trial that reached the full budget yet; resume it"
    rules = study.spec.constraints
    nearest = min(complete, key=lambda trial: violation(rules, trial.user_attrs[END]["metrics"]))
    metrics = nearest.user_attrs[END]["metrics"]
    broken = ", ".join(
        f"{rule.metric} {metrics[rule.metric]:.4g} is not {rule.rule}"
        for rule in rules
        if not feasible([rule], metrics)
    )
    return f"no trial of study {study.name} satisfies its constraints; trial {nearest.number} is nearest: {broken}"


def _once_each(study: Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Drop trials whose configuration, apart from the seed, equals that of a better trial."""
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
    """The trial's searched values without the seed."""
    return {key: value for key, value in trial.params.items() if key != SEED}


def fresh_seeds(study: Study, number: int) -> tuple[int, ...]:
    """The lowest `number` seeds that the search did not use."""
    used = {int(study.spec.training["seed"])} | {
        int(trial.params[SEED]) for trial in study.trials() if SEED in trial.params
    }
    return tuple([seed for seed in range(number + len(used)) if seed not in used][:number])
