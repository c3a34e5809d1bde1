"""Costs of a study's configurations, interpolated from a few known points of the space.

The points form a star: a central configuration, and others that differ from it in one key that affects the cost
(`cost_spec`). The cost of a configuration is that of the centre times one ratio per key; the product is exact for the
batch size and the number of layers, whose effects multiply. Within a range, a ratio is interpolated linearly between
three points, because FLOPs are linear in the number of proxies.
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
    """The cost of one configuration on one slot while all slots are busy.

    step, evaluation, start: seconds of an optimizer step, of an evaluation on the whole validation split, and of a
    worker's preparation before the first step. memory_mib: predicted peak of a step. The others: see
    `predicted_profile`.
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
    """A point of the star, which differs from the centre in the value of `key`; the centre has no key."""

    params: Mapping[str, Scalar]
    key: str = ""
    value: Scalar = 0


def star(spec: StudySpec) -> list[Point]:
    """The points whose costs must be known. The first is the centre: the first enqueued configuration, if there is any.

    Raises:
        InputError: there are more than MOST_POINTS points.
    """
    centre = dict(spec.search.enqueue[0]) if spec.search.enqueue else {}
    ranges = [
        key
        for key, distribution in spec.space.distributions.items()
        if isinstance(distribution, FloatDistribution)
    ]
    for key in ranges:
        centre.setdefault(key, _values(spec.search.space[key])[1])
    points = [Point(centre)]
    for key, domain in spec.search.space.items():
        if key in ranges:  # the cost of a rate or a fraction does not depend on its value unless it is zero
            continue
        values = _values(domain)
        if isinstance(spec.space.distributions[key], IntDistribution):
            values = sorted({round(float(value)) for value in values})
        costs = [cost_spec(spec.trial(centre | {key: value})) for value in values]
        if any(cost != costs[0] for cost in costs):
            points += [Point(centre | {key: value}, key, value) for value in values]
    if len(points) > MOST_POINTS:
        raise InputError(
            f"search.space: {len(points)} values of its keys affect the cost, and a plan supports at most "
            f"{MOST_POINTS}; plan a smaller space"
        )
    return points


def _values(domain: Domain) -> Sequence[Any]:
    """All choices, or the ends and the midpoint of a range."""
    if domain.choice is not None:
        return domain.choice
    assert domain.low is not None
    assert domain.high is not None
    between = (domain.low * domain.high) ** 0.5 if domain.log else (domain.low + domain.high) / 2
    return [domain.low, between, domain.high]


def predicted_costs(spec: StudySpec, points: Sequence[Point], step: float) -> list[Cost]:
    """Costs from the seconds of a step at the centre; the step time of other points scales with their FLOPs.

    Evaluations and starts are unknown and count as zero seconds.
    """
    centre = _flops(spec, points[0])
    return [known_cost(spec, point, step * _flops(spec, point) / centre, 0.0, 0.0) for point in points]


def _flops(spec: StudySpec, point: Point) -> float:
    trial = spec.trial(point.params)
    return predicted_profile(trial)["flops_per_sequence"] * int(trial.training["batch_size"])


def known_cost(spec: StudySpec, point: Point, step: float, evaluation: float, start: float) -> Cost:
    """The cost of a point: the given seconds and the predicted profile."""
    trial = spec.trial(point.params)
    profile = predicted_profile(trial, trial_device(trial))
    training = trial.training_config()
    sequences = min(training.micro_batch_size or training.batch_size, training.batch_size)
    memory = profile["train_memory_mib_per_sequence"] * sequences
    return Cost(step, evaluation, start, memory, **profile)


class Costs:
    """The cost of any configuration of a study, from the costs of its star."""

    def __init__(self, points: Sequence[Point], costs: Sequence[Cost]) -> None:
        """The points of `star` and the cost of each."""
        self._centre = np.array(astuple(costs[0]))
        self._ratios: dict[str, dict[Scalar, Any]] = {}
        for point, cost in zip(points[1:], costs[1:], strict=True):
            own = {point.key: points[0].params[point.key]} if point.key in points[0].params else {}
            ratios = self._ratios.setdefault(
                point.key, {value: np.ones(len(self._centre)) for value in own.values()}
            )
            ratios[point.value] = np.array(astuple(cost)) / np.maximum(self._centre, 1e-12)

    def of(self, params: Mapping[str, Any]) -> Cost:
        """The cost of a configuration (searched values by dotted keys)."""
        cost = self._centre.copy()
        for key, ratios in self._ratios.items():
            if key in params:
                cost *= _between(ratios, params[key])
        return Cost(*cost.tolist())


def _between(ratios: Mapping[Any, Any], value: Any) -> Any:
    if value in ratios:
        return ratios[value]
    values = sorted(ratios)
    known = np.array([ratios[known_value] for known_value in values])
    return np.array([np.interp(value, values, column) for column in known.T])
