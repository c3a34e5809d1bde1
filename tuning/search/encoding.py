"""Encodes configurations as points of the unit cube, for models that use distances."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution

from proxytune.tuning.spec.space import SearchSpace

Points = NDArray[np.float64]
INACTIVE = 0.5


class Encoding:
    """Maps a search space to [0, 1]^d and back.

    A range takes one coordinate, linear in the value, or in its logarithm for logarithmic ranges. A list of numbers in
    ascending or descending order takes one coordinate, the position in the list. Any other list is one-hot encoded. A
    key whose condition does not hold has all its coordinates at INACTIVE.
    """

    def __init__(self, space: SearchSpace, fixed: Mapping[str, Any]) -> None:
        """`fixed` holds the study's fixed values (dotted keys), which conditions may refer to."""
        self._space = space
        self._fixed = fixed
        self._columns: dict[str, slice] = {}
        self.size = 0
        for key in space.order:
            distribution: Any = space.distributions[key]
            width = 1 if _is_ordered(distribution) else len(distribution.choices)
            self._columns[key] = slice(self.size, self.size + width)
            self.size += width
        self._conditional = any(domain.when for domain in space.domains.values())

    def encode(self, params: Mapping[str, Any]) -> list[float]:
        """The point of a configuration; missing keys are inactive."""
        point = [INACTIVE] * self.size
        for key, columns in self._columns.items():
            if key in params:
                point[columns] = _encode(self._space.distributions[key], params[key], columns)
        return point

    def decode(self, point: Points) -> dict[str, Any]:
        """The configuration nearest to a point, with a value for every key, including inactive keys."""
        return {
            key: _decode(self._space.distributions[key], point[columns])
            for key, columns in self._columns.items()
        }

    def snap(self, points: Points) -> Points:
        """Points (rows) rounded to valid choices, with inactive keys at INACTIVE."""
        snapped = points.copy()
        for key, columns in self._columns.items():
            distribution = self._space.distributions[key]
            if columns.stop - columns.start > 1:
                chosen = points[:, columns].argmax(axis=1)
                snapped[:, columns] = np.eye(columns.stop - columns.start)[chosen]
            elif isinstance(distribution, CategoricalDistribution):
                last = max(1, len(distribution.choices) - 1)
                snapped[:, columns] = np.round(points[:, columns] * last) / last
        if self._conditional:
            for row in snapped:
                self._deactivate(row)
        return snapped

    def _deactivate(self, row: Points) -> None:
        values = self.decode(row)
        held = dict(self._fixed)
        for key in self._space.order:
            if self._space.holds(key, held):
                held[key] = values[key]
            else:
                row[self._columns[key]] = INACTIVE


def _is_ordered(distribution: BaseDistribution) -> bool:
    """Whether one coordinate encodes it: a range, or a list of ascending or descending numbers."""
    if not isinstance(distribution, CategoricalDistribution):
        return True
    choices = distribution.choices
    if any(isinstance(choice, bool) or not isinstance(choice, int | float) for choice in choices):
        return False
    return list(choices) in (sorted(choices), sorted(choices, reverse=True))  # type: ignore[type-var]


def _encode(distribution: Any, value: Any, columns: slice) -> list[float]:
    if isinstance(distribution, CategoricalDistribution):
        index = distribution.to_internal_repr(value)
        if columns.stop - columns.start > 1:
            return [float(position == index) for position in range(len(distribution.choices))]
        return [index / max(1, len(distribution.choices) - 1)]
    low, high = _scale(distribution, distribution.low), _scale(distribution, distribution.high)
    return [(_scale(distribution, value) - low) / (high - low) if high > low else INACTIVE]


def _decode(distribution: Any, point: Points) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        if len(point) > 1:
            return distribution.choices[int(point.argmax())]
        return distribution.choices[round(float(point[0]) * (len(distribution.choices) - 1))]
    low, high = _scale(distribution, distribution.low), _scale(distribution, distribution.high)
    value = low + float(point[0]) * (high - low)
    if distribution.log:
        value = math.exp(value)
    if distribution.step is not None:  # integer ranges always have a step
        value = distribution.low + round((value - distribution.low) / distribution.step) * distribution.step
    value = min(max(value, distribution.low), distribution.high)
    return int(value) if isinstance(distribution.low, int) else float(value)


def _scale(distribution: Any, value: float) -> float:
    return math.log(value) if distribution.log else float(value)
