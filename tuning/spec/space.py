"""The search space: domains of the study file, Optuna's distributions, and the parameters of one trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:  # Optuna is imported where a distribution is created: reading a study file does not need it
    import optuna
    from optuna.distributions import BaseDistribution

Scalar = bool | int | float | str | None


class Domain(BaseModel):
    """The values of one searched key: a `choice`, or a range from `low` to `high`, both inclusive.

    A range takes `log` (spaced evenly in the logarithm; low > 0) or `step` (a grid from low), not both.
    A plain list is a choice. `when` names other searched or fixed keys and the values at which this key is searched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    choice: tuple[Scalar, ...] | None = None
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None
    when: Mapping[str, Scalar | tuple[Scalar, ...]] = {}

    @model_validator(mode="before")
    @classmethod
    def _list_is_choice(cls, values: Any) -> Any:
        if isinstance(values, list | tuple):
            return {"choice": values}
        if isinstance(values, Mapping | Domain):
            return values
        raise ValueError(
            f"{values!r} is not a domain; write [8, 16, 32] or {{low: 0.0, high: 0.3}}, and set a fixed value outside "
            "search.space"
        )

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
        if self.step is not None and not 0 < self.step < math.inf:
            raise ValueError(f"step {self.step} must be above 0 and finite")
        return self

    def check_integer(self) -> None:
        """Check that the range holds only whole numbers.

        Raises:
            ValueError: a fractional bound or step.
        """
        if self.choice is None:
            for name in ("low", "high", "step"):
                value = getattr(self, name)
                if value is not None and value != int(value):
                    raise ValueError(f"{name} {value} must be a whole number")

    def distribution(self, *, integer: bool) -> BaseDistribution:
        """The domain as Optuna's distribution; `integer`: the key takes whole numbers."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choice is not None:
            return CategoricalDistribution(self.choice)
        assert self.low is not None
        assert self.high is not None
        if integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)

    def contains(self, value: Scalar) -> bool:
        """Whether the value is in the domain; SearchSpace.contains also checks that integer keys get whole numbers."""
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


def distribution_of(domain: Mapping[str, Any], value: Scalar) -> BaseDistribution:
    """Optuna's distribution for a domain of a resolved study file. The type of `value` decides between int and float."""
    from optuna.distributions import CategoricalDistribution

    if domain.get("choice") is not None:
        return CategoricalDistribution(domain["choice"])
    return Domain.model_validate(domain).distribution(integer=isinstance(value, int))


class SearchSpace:
    """All searched keys in a fixed order, conditional keys after the keys they depend on."""

    def __init__(self, domains: Mapping[str, Domain], integer_keys: frozenset[str]) -> None:
        self.domains = dict(domains)
        self._integer_keys = integer_keys
        for key in self.domains.keys() & integer_keys:
            try:
                self.domains[key].check_integer()
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        self.order = self._sorted()

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of each key."""
        return {
            key: domain.distribution(integer=key in self._integer_keys)
            for key, domain in self.domains.items()
        }

    def contains(self, key: str, value: Scalar) -> bool:
        """Whether a trial may be enqueued with this value of a searched key."""
        domain = self.domains[key]
        whole = domain.choice is not None or key not in self._integer_keys or isinstance(value, int)
        return whole and domain.contains(value)

    def _sorted(self) -> list[str]:
        """The keys in topological order of their conditions.

        Raises:
            ValueError: conditions depend on each other in a cycle.
        """
        done: list[str] = []
        waiting = list(self.domains)
        while waiting:
            ready = [key for key in waiting if not (set(self.domains[key].when) & set(waiting))]
            if not ready:
                raise ValueError(f"the conditions of {', '.join(waiting)} depend on each other in a cycle")
            done += ready
            waiting = [key for key in waiting if key not in ready]
        return done

    def suggest(self, trial: optuna.Trial, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Sample every key whose conditions are met.

        `fixed` holds the study's fixed values (dotted keys), to which conditions may also refer.
        """
        params: dict[str, Any] = {}
        for key in self.order:
            if self.holds(key, {**fixed, **params}):
                params[key] = _suggest(trial, key, self.distributions[key])
        return params

    def grid(self, fixed: Mapping[str, Any]) -> list[dict[str, Scalar]]:
        """Every combination of choices that the conditions allow; the first key of the study file changes slowest."""
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
        """Whether `values` meet the key's `when`."""
        for other, wanted in self.domains[key].when.items():
            allowed = wanted if isinstance(wanted, tuple) else (wanted,)
            if values.get(other) not in allowed:
                return False
        return True


def _suggest(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

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
