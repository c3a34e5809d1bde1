"""The outcome of finished retrainings: each candidate's mean and interval, the tied candidates, the winner."""

from collections.abc import Mapping, Sequence

import numpy as np
from optuna.trial import FrozenTrial

from proxytune.tuning.confirm.racing import clearly_worse, interval, race
from proxytune.tuning.confirm.retraining import Plan, Point, measured
from proxytune.tuning.errors import ProxytuneError
from proxytune.tuning.spec.constraints import feasible
from proxytune.tuning.spec.metrics import bounds_of
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.ranking import sign
from proxytune.tuning.store.attributes import END
from proxytune.tuning.store.confirmation import Candidate, Confirmation
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.summary import outcome_of

Values = Mapping[int, Sequence[Sequence[float] | None]]


def conclude(
    study: Study,
    chosen: Mapping[int, FrozenTrial],
    plan: Plan,
    trials: Mapping[Point, FrozenTrial],
    efficiency: Mapping[int, dict[str, float]],
    num_retrainings: int,
) -> Confirmation:
    """Build the confirmation from the retrainings, without a test result.

    Args:
        study: the confirmed study.
        chosen: its candidates by trial number.
        plan: candidates and seeds.
        trials: the retraining of each point.
        efficiency: the measured efficiency of each candidate.
        num_retrainings: number of started retrainings, for the record.

    Raises:
        ProxytuneError: a retraining failed, or every candidate was eliminated.
    """
    objectives = study.spec.search.objectives
    objective, direction = next(iter(objectives.items()))
    values = measured(plan, trials, objectives)
    out = race(values)
    _check_complete(study, plan, values, out)
    found = {
        number: _candidate(study, trial, plan, trials, out.get(number), efficiency.get(number, {}))
        for number, trial in chosen.items()
    }
    left = [number for number, candidate in found.items() if candidate.eliminated_after is None]
    if not left:
        reasons = "; ".join(f"trial {number}: {candidate.reason}" for number, candidate in found.items())
        raise ProxytuneError(f"study {study.name}: every candidate was eliminated: {reasons}")
    tied = _tied(left, values)
    loss = {number: _loss(candidate, direction) for number, candidate in found.items()}
    winner = min(tied, key=lambda number: (found[number].cost, loss[number]))
    order = sorted(found, key=lambda number: (number not in left, loss[number]))
    return Confirmation(
        study=study.name,
        objective=objective,
        direction=direction,
        seeds=plan.seeds,
        candidates=tuple(found[number] for number in order),
        winner=winner,
        tied=tuple(number for number in order if number in tied),
        gap=loss[winner] - sign(direction) * found[winner].search_value,
        retrainings=num_retrainings,
        test=None,
    )


def _check_complete(study: Study, plan: Plan, values: Values, out: Mapping[int, int]) -> None:
    missing = [
        (number, seed)
        for number, own in values.items()
        for seed, value in zip(plan.seeds, own, strict=True)
        if value is None and number not in out
    ]
    if missing:
        number, seed = missing[0]
        raise ProxytuneError(
            f"{len(missing)} retrainings failed (the first: candidate {number} with seed {seed}; `proxytune trials "
            f"{study.name}.confirm` gives the reasons); the same command retries them"
        )


def _tied(left: Sequence[int], values: Values) -> list[int]:
    """The remaining candidates that are not clearly worse in the first objective."""
    first = np.array([[own[0] for own in values[number] if own is not None] for number in left], np.float64)
    worse = clearly_worse(first.T[:, :, None])
    return [number for number, is_worse in zip(left, worse, strict=True) if not is_worse]


def _loss(candidate: Candidate, direction: str) -> float:
    """The mean, signed so that lower is better."""
    return np.inf if candidate.mean is None else sign(direction) * candidate.mean


def _candidate(
    study: Study,
    trial: FrozenTrial,
    plan: Plan,
    trials: Mapping[Point, FrozenTrial],
    eliminated_after: int | None,
    efficiency: dict[str, float],
) -> Candidate:
    objective = next(iter(study.spec.search.objectives))
    seeds = plan.seeds[:eliminated_after]
    own = {seed: trials[trial.number, seed] for seed in seeds}
    broken = [seed for seed, retraining in own.items() if outcome_of(retraining) is not Outcome.COMPLETE]
    reports = [
        retraining.user_attrs[END]["metrics"] for seed, retraining in own.items() if seed not in broken
    ]
    values = tuple(float(report[objective]) for report in reports)
    metrics = {
        name: float(np.mean([report[name] for report in reports]))
        for name in (reports[0] if reports else {})
        if all(name in report for report in reports)
    }
    reason = ""
    if broken:
        reason = f"{outcome_of(own[broken[0]])} with seed {broken[0]}"
    elif eliminated_after is not None:
        reason = "clearly worse than another candidate"
    else:
        broken_rules = [rule for rule in study.spec.constraints if not feasible([rule], metrics)]
        if broken_rules:
            metric, eliminated_after = broken_rules[0].metric, len(seeds)
            reason = f"its mean {metric} of {metrics[metric]:.4g} violates the constraint"
    return Candidate(
        trial=trial.number,
        params=dict(trial.params),
        search_value=float(trial.values[0]),
        seeds=tuple(seed for seed in seeds if seed not in broken),
        values=values,
        mean=float(np.mean(values)) if values else None,
        interval=interval(values, bounds_of(objective)),
        eliminated_after=eliminated_after,
        reason=reason,
        metrics=metrics,
        efficiency=efficiency,
    )
