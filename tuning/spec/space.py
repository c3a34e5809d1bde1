"""The search space: from the study file's domains to Optuna's distributions and one trial's parameters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, ConfigDict, model_validator

Scalar = bool | int | float | str | None


class Domain(BaseModel):
    """The values of one searched key: a `choice`, or a range from `low` to `high`, both inclusive.

    A range takes `log` (spaced evenly in the logarithm; low > 0) or `step` (a grid from low), not both.
    `when` names other searched or fixed keys and the values at which this key exists at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    choice: tuple[Scalar, ...] | None = None
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None
    when: Mapping[str, Scalar | tuple[Scalar, ...]] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.choice is not None:
            if self.low is not None or self.high is not None or self.log or self.step is not None:
                raise ValueError("takes either choice or low and high, not both")
            if not self.choice:
                raise ValueError("choice is empty; name at least one value")
            if len({(type(value), value) for value in self.choice}) < len(self.choice):
                raise ValueError(f"choice {list(self.choice)} names a value twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs choice: [...], or low and high")
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"low {self.low} and high {self.high} must be finite")
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low > 0, not {self.low}")
        if self.log and self.step is not None:
            raise ValueError("takes log or step, not both")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step {self.step} must be above 0")
        return self

    def distribution(self, *, integer: bool) -> BaseDistribution:
        """Optuna's form of the domain; `integer` where the key holds whole numbers.

        Raises:
            ValueError: a whole-number key with a fractional bound or step.
        """
        if self.choice is not None:
            return CategoricalDistribution(self.choice)
        assert self.low is not None
        assert self.high is not None
        if not integer:
            return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)
        for name, value in (("low", self.low), ("high", self.high), ("step", self.step or 1)):
            if value != int(value):
                raise ValueError(f"{name} {value} must be a whole number")
        return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))

    def contains(self, value: Scalar) -> bool:
        """Whether a trial may be enqueued with this value."""
        if self.choice is not None:
            return any(value == option and type(value) is type(option) for option in self.choice)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        assert self.low is not None
        assert self.high is not None
        steps = (value - self.low) / self.step if self.step else 0.0
        return self.low <= value <= self.high and math.isclose(steps, round(steps), abs_tol=1e-9)

    def corners(self) -> Sequence[Scalar]:
        """The extreme values: all choices, or the two ends of the range."""
        return self.choice if self.choice is not None else (self.low, self.high)


class SearchSpace:
    """All searched keys in a fixed order, conditions after the keys they depend on."""

    def __init__(self, domains: Mapping[str, Domain], integer_keys: frozenset[str]) -> None:
        self.domains = dict(domains)
        self.distributions: dict[str, BaseDistribution] = {}
        for key, domain in self.domains.items():
            try:
                self.distributions[key] = domain.distribution(integer=key in integer_keys)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        self.order = self._sorted()

    def _sorted(self) -> list[str]:
        """Conditional keys after the searched keys they name (a cycle cannot be ordered)."""
        done: list[str] = []
        waiting = list(self.domains)
        while waiting:
            ready = [key for key in waiting if not (set(self.domains[key].when) & set(waiting))]
            if not ready:
                raise ValueError(f"the conditions of {', '.join(waiting)} depend on each other in a circle")
            done += ready
            waiting = [key for key in waiting if key not in ready]
        return done

    def suggest(self, trial: optuna.Trial, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Let the trial's sampler choose every key that exists under its conditions.

        `fixed` holds the study's own values (dotted keys), which conditions may name too.
        """
        params: dict[str, Any] = {}
        for key in self.order:
            if self.holds(key, {**fixed, **params}):
                params[key] = _suggest(trial, key, self.distributions[key])
        return params

    def grid(self, fixed: Mapping[str, Any]) -> list[dict[str, Scalar]]:
        """Every combination of choices that the conditions allow, the first key in the study file changing slowest."""
        points: list[dict[str, Scalar]] = [{}]
        for key in self.order:
            points = [
                point | extra
                for point in points
                for extra in (
                    [{key: value} for value in self.domains[key].choice or ()]
                    if self.holds(key, {**fixed, **point})
                    else [{}]
                )
            ]
        return points

    def holds(self, key: str, values: Mapping[str, Any]) -> bool:
        """Whether the key's `when` is met by `values`."""
        for other, wanted in self.domains[key].when.items():
            allowed = wanted if isinstance(wanted, tuple) else (wanted,)
            if values.get(other) not in allowed:
                return False
        return True


def _suggest(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            key, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(
        key, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )
