"""Constraints on metrics: `train_memory_mib_per_sequence: "<= 40"`."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_RULE = re.compile(r"\s*(<=|>=)\s*([-+.\w]+)\s*")


@dataclass(frozen=True)
class Constraint:
    """A bound on one metric."""

    metric: str
    sign: int  # 1: at most the bound, -1: at least
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {self.rule}"

    @property
    def rule(self) -> str:
        """The bound in the notation of a study file."""
        return f"{'<=' if self.sign > 0 else '>='} {self.bound:g}"

    def excess(self, value: float) -> float:
        """The amount by which the value exceeds the bound, in the metric's unit; 0 or less is feasible."""
        return self.sign * (value - self.bound) if math.isfinite(value) else math.inf


def parse_constraint(metric: str, rule: str) -> Constraint:
    """Parse the constraint `metric: rule` of a study file.

    Raises:
        ValueError: the rule is not "<= number" or ">= number".
    """
    match = _RULE.fullmatch(rule)
    try:
        bound = float(match[2]) if match else math.nan
    except ValueError:
        bound = math.nan
    if match is None or not math.isfinite(bound):
        raise ValueError(f'search.constraints.{metric}: {rule!r} must be "<= number" or ">= number"')
    return Constraint(metric, 1 if match[1] == "<=" else -1, bound)


def parse_constraints(rules: Mapping[str, str]) -> tuple[Constraint, ...]:
    """Parse the section `search.constraints` of a study file.

    Raises:
        ValueError: a rule is not "<= number" or ">= number".
    """
    return tuple(parse_constraint(metric, rule) for metric, rule in rules.items())


def excesses(constraints: Sequence[Constraint], metrics: Mapping[str, float]) -> dict[str, float]:
    """The excess over each constraint whose metric is known, by metric; 0 or less is feasible."""
    return {rule.metric: rule.excess(metrics[rule.metric]) for rule in constraints if rule.metric in metrics}


def feasible(constraints: Sequence[Constraint], metrics: Mapping[str, float]) -> bool:
    """Whether the metrics satisfy every constraint. A metric that is not known yet violates nothing."""
    return violation(constraints, metrics) == 0


def violation(constraints: Sequence[Constraint], metrics: Mapping[str, float]) -> float:
    """Sum of the violations of the constraints, each relative to its bound; 0 is feasible.

    A metric that is not known yet violates nothing.
    """
    return sum(
        max(0.0, constraint.excess(metrics[constraint.metric])) / (abs(constraint.bound) or 1.0)
        for constraint in constraints
        if constraint.metric in metrics
    )
