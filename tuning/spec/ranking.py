"""Ranking of trials: directions, dominance, the Pareto front. Each is defined only here.

Trials are given as a mapping from their number to their metrics, objectives as a mapping from metric to `maximize` or
`minimize`. A metric that is missing or not finite counts as the worst value. Eligibility is not checked here: callers
pass trials that are complete and within the constraints (`constraints.feasible`).
"""

import math
from collections.abc import Mapping

from proxytune.tuning.spec.metrics import MEMORY

Objectives = Mapping[str, str]
Points = Mapping[int, Mapping[str, float]]
BEST_SEARCH_VALUE = "best search value"
"""Description of the rule of `best`."""


def sign(direction: str) -> float:
    """The factor that makes lower values better: 1 for `minimize`, -1 for `maximize`."""
    return 1.0 if direction == "minimize" else -1.0


def signed(metrics: Mapping[str, float], objectives: Objectives) -> tuple[float, ...]:
    """The objectives, signed so that lower is better; infinity where a metric is missing or not finite."""
    values = (sign(direction) * metrics.get(name, math.nan) for name, direction in objectives.items())
    return tuple(value if math.isfinite(value) else math.inf for value in values)


def ordered(points: Points, objectives: Objectives) -> list[int]:
    """The trials, best first: by the first objective, ties by the next ones, then by the lower number."""
    return sorted(points, key=lambda number: (signed(points[number], objectives), number))


def best(points: Points, objectives: Objectives) -> int | None:
    """The first of `ordered`, which no other trial dominates; None if there are no trials."""
    return min(points, key=lambda number: (signed(points[number], objectives), number), default=None)


def front(points: Points, objectives: Objectives) -> list[int]:
    """The non-dominated trials, by number."""
    kept: list[tuple[int, tuple[float, ...]]] = []
    for number in ordered(points, objectives):  # only an earlier trial in this order can dominate a later one
        values = signed(points[number], objectives)
        if not any(dominates(other, values) for _, other in kept):
            kept.append((number, values))
    return sorted(number for number, _ in kept)


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether `one`, signed as by `signed`, is nowhere worse than `other` and somewhere better."""
    return one != other and all(x <= y for x, y in zip(one, other, strict=True))


def front_objectives(objectives: Objectives) -> dict[str, str]:
    """The objectives of the Pareto front: those of the study; for a single objective also training memory."""
    lone = len(objectives) == 1 and MEMORY not in objectives
    return dict(objectives) | ({MEMORY: "minimize"} if lone else {})
