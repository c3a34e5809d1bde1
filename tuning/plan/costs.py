"""What configurations of a study cost: a few points of the space are known, the others lie between them.

The points are a star: a configuration in the middle, and others that differ from it in one key that the cost depends on
(`cost_spec`). A configuration costs what the middle does, times the ratio of each of its keys: the product is right for
the batch size and the layers, which multiply. Within a range a ratio is linear in the value, between three points,
as FLOPs are in the number of proxies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.space import Domain, Scalar
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.trial.profile import cost_spec, predicted_profile, trial_device

MOST_POINTS = 40


@dataclass(frozen=True)
class Cost:
    """Of one configuration, on one slot while all slots work.

    step, evaluation, start: seconds of an optimizer step, of an evaluation on the whole validation split, and of what
    a worker does before the first step. memory_mib: predicted peak of a step. The others: `predicted_profile`.
    """

    step: float
    evaluation: float
    start: float
    memory_mib: float
    parameters: float
    flops_per_sequence: float
    train_memory_mib_per_sequence: float


@dataclass(frozen=True)
class Point:
    """A point of the star: the value of `key` that differs from the middle; of the middle itself no key."""

    params: Mapping[str, Scalar]
    key: str = ""
    value: Scalar = 0


def star(spec: StudySpec) -> list[Point]:
    """The points whose costs are to be known; the first is the middle, the first enqueued configuration if there is one.

    Raises:
        InputError: they are too many.
    """
    middle = dict(spec.search.enqueue[0]) if spec.search.enqueue else {}
    ranges = [key for key, one in spec.space.distributions.items() if isinstance(one, FloatDistribution)]
    for key in ranges:
        middle.setdefault(key, _values(spec.search.space[key])[1])
    points = [Point(middle)]
    for key, domain in spec.search.space.items():
        if key in ranges:  # a rate or a share costs the same wherever it is not zero
            continue
        values = _values(domain)
        if isinstance(spec.space.distributions[key], IntDistribution):
            values = sorted({round(float(value)) for value in values})
        costs = [cost_spec(spec.trial(middle | {key: value})) for value in values]
        if any(cost != costs[0] for cost in costs):
            points += [Point(middle | {key: value}, key, value) for value in values]
    if len(points) > MOST_POINTS:
        raise InputError(
            f"search.space: its keys have {len(points)} values with costs of their own, and a plan knows "
            f"{MOST_POINTS} at most; plan a smaller space"
        )
    return points


def _values(domain: Domain) -> Sequence[Any]:
    """All choices, or the ends and the middle of a range."""
    if domain.choice is not None:
        return domain.choice
    assert domain.low is not None
    assert domain.high is not None
    between = (domain.low * domain.high) ** 0.5 if domain.log else (domain.low + domain.high) / 2
    return [domain.low, between, domain.high]


def predicted_costs(spec: StudySpec, points: Sequence[Point], step: float) -> list[Cost]:
    """Costs from the seconds of a step in the middle of the star: the steps of others are as their FLOPs.

    Nothing is known of evaluations and starts, which count as nothing.
    """
    middle = _flops(spec, points[0])
    return [known_cost(spec, point, step * _flops(spec, point) / middle, 0.0, 0.0) for point in points]


def _flops(spec: StudySpec, point: Point) -> float:
    trial = spec.trial(point.params)
    return predicted_profile(trial)["flops_per_sequence"] * int(trial.training["batch_size"])


def known_cost(spec: StudySpec, point: Point, step: float, evaluation: float, start: float) -> Cost:
    """These seconds, with what is predicted of the point."""
    trial = spec.trial(point.params)
    profile = predicted_profile(trial, trial_device(trial))
    training = trial.training_config()
    sequences = min(training.micro_batch_size or training.batch_size, training.batch_size)
    memory = profile["train_memory_mib_per_sequence"] * sequences
    return Cost(step, evaluation, start, memory, **profile)


class Costs:
    """The cost of any configuration of a study, from those of its star."""

    def __init__(self, points: Sequence[Point], costs: Sequence[Cost]) -> None:
        """The points of `star` and the cost of each."""
        self._middle = np.array(astuple(costs[0]))
        self._ratios: dict[str, dict[Scalar, Any]] = {}
        for point, cost in zip(points[1:], costs[1:], strict=True):
            own = {point.key: points[0].params[point.key]} if point.key in points[0].params else {}
            ratios = self._ratios.setdefault(
                point.key, {value: np.ones(len(self._middle)) for value in own.values()}
            )
            ratios[point.value] = np.array(astuple(cost)) / np.maximum(self._middle, 1e-12)

    def of(self, params: Mapping[str, Any]) -> Cost:
        """The cost of a configuration (searched values by dotted keys)."""
        cost = self._middle.copy()
        for key, ratios in self._ratios.items():
            if key in params:
                cost *= _between(ratios, params[key])
        return Cost(*cost.tolist())


def _between(ratios: Mapping[Any, Any], value: Any) -> Any:
    if value in ratios:
        return ratios[value]
    values = sorted(ratios)
    known = np.array([ratios[one] for one in values])
    return np.array([np.interp(value, values, column) for column in known.T])
