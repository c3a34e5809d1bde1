"""The steps at which trials are compared, and the expected number of steps of a study."""

from collections.abc import Sequence

from proxytune.tuning.spec.search import Stopping

MAX_RUNGS = 100_000
CURVE_CONTINUES = 0.7
"""Assumed fraction of the trials that `curve` lets continue at a rung. With it 12 trials of 3 or 6 reports are expected to
spend 0.80 and 0.65 of the steps; on the tables of the race the medians are 0.78 and 0.65.
"""


def rung_steps(stopping: Stopping, steps: int, eval_every: int) -> tuple[int, ...]:
    """The steps at which trials of `steps` steps are compared, lowest first, without the full budget.

    Raises:
        ValueError: there is no rung below the budget, or there are more than MAX_RUNGS.
    """
    if stopping.name == "none":
        return ()
    rung = stopping.min_steps or eval_every
    if rung >= steps:
        raise ValueError(
            f"search.stopping.min_steps: {rung} leaves no rung below training.steps {steps}; "
            "lower it or set search.stopping.name=none"
        )
    if stopping.name == "median":
        if steps // eval_every > MAX_RUNGS:
            raise ValueError(
                f"training.eval_every: {eval_every} makes more than {MAX_RUNGS:,} evaluations per trial, and median "
                "compares at each of them; evaluate less often"
            )
        return tuple(step for step in range(eval_every, steps, eval_every) if step >= rung)
    rungs = []
    while rung < steps:
        rungs.append(rung)
        rung *= stopping.reduction_factor
    return tuple(rungs)


def expected_steps(stopping: Stopping, rungs: Sequence[int], steps: int, trials: int) -> float:
    """Total steps of `trials` trials if the stopping rule keeps the configured fraction at each rung.

    With `median` every trial counts in full, because the number of stopped trials depends on the values alone. `curve`
    is assumed to let CURVE_CONTINUES of the trials continue at each rung.
    """
    if stopping.name == "curve":
        lengths = [end - begin for begin, end in zip((0, *rungs), (*rungs, steps), strict=True)]
        return sum(trials * CURVE_CONTINUES**place * length for place, length in enumerate(lengths))
    if stopping.name == "hyperband":
        brackets = len(rungs) + 1  # the last one has no rung
        return sum(
            _halving(rungs[first:], steps, trials / brackets, stopping.reduction_factor)
            for first in range(brackets)
        )
    return _halving(rungs if stopping.name == "asha" else (), steps, float(trials), stopping.reduction_factor)


def _halving(rungs: Sequence[int], steps: int, trials: float, factor: int) -> float:
    total, left, before = 0.0, trials, 0
    for rung in (*rungs, steps):
        total += left * (rung - before)
        left, before = min(left, left // factor + 1), rung
    return total
