"""Rungs: the steps at which trials are compared, and which trials continue, for any number of objectives.

Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934, stopping variant) keeps the best 1/reduction_factor of
the trials that have reached a rung so far, rounded down, plus one; the first trial always continues. Hyperband (Li et
al. 2018) runs several such brackets with increasing first rungs. The median rule (Golovin et al. 2017) compares at every
evaluation and keeps the better half once MEDIAN_STARTUP trials are there. Trials are ranked by feasibility, then by
non-dominated front, then by crowding distance on that front (Deb et al. 2002, NSGA-II); with one objective this is the
order of its values. Values that are not finite rank last.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxytune.tuning.spec.ranking import dominates
from proxytune.tuning.spec.study_spec import StudySpec

MEDIAN_STARTUP = 5


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A trial's result when it crossed a rung: values to be minimised and the total constraint violation."""

    values: tuple[float, ...]
    violation: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The value of a trial attribute."""
        return {"values": list(self.values), "violation": self.violation}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Entry":
        return cls(values=tuple(value["values"]), violation=value["violation"])


class Rungs:
    """The trials that crossed each rung, with their values. Its only state is the entries recorded by `enter`."""

    def __init__(self, steps: Sequence[int], keep: Callable[[int], int]) -> None:
        """`keep` maps the number of trials that have reached a rung to the number that continue."""
        self.steps = tuple(steps)
        self._keep = keep
        self._entries: dict[int, dict[int, Entry]] = {step: {} for step in self.steps}

    def crossed(self, before: int, step: int) -> int | None:
        """The highest rung that a trial crosses between two of its reports, if any."""
        return max((rung for rung in self.steps if before < rung <= step), default=None)

    def enter(self, trial: int, rung: int, entry: Entry) -> None:
        """Record a crossing; only the first crossing of a trial counts."""
        self._entries[rung].setdefault(trial, entry)

    def entry(self, trial: int, rung: int) -> Entry:
        """The result with which a trial entered a rung."""
        return self._entries[rung][trial]

    def continues(self, trial: int, rung: int) -> bool:
        """Whether a trial that has entered the rung continues, given the trials that have entered it so far."""
        entries = self._entries[rung]
        keep = self._keep(len(entries))
        own = entries[trial]
        if not all(math.isfinite(value) for value in own.values):
            return False
        if len(own.values) == 1:
            better = sum(_key(entry) < _key(own) for entry in entries.values())
            return better < keep
        return trial in rank(entries)[:keep]


def make_brackets(spec: StudySpec) -> list[Rungs]:
    """The rungs of each bracket, without entries; trial n belongs to bracket n modulo the number of brackets."""
    steps, stopping = spec.rung_steps(), spec.search.stopping
    if stopping.name == "median":
        return [Rungs(steps, better_half)]
    starts = range(len(steps) + 1) if stopping.name == "hyperband" else range(1)
    return [Rungs(steps[start:], best_share(stopping.reduction_factor)) for start in starts]


def best_share(reduction_factor: int) -> Callable[[int], int]:
    """Successive halving's rule: 1/`reduction_factor` of the entries, rounded down, plus one.

    One is added even if the division leaves no remainder: with few entries, their best third is a noisy estimate of the
    best third of all trials. On recorded trainings this found better configurations at every budget than rounding up.
    """
    return lambda num_entries: num_entries // reduction_factor + 1


def better_half(num_entries: int) -> int:
    """The median rule: all entries until there are MEDIAN_STARTUP, then the better half."""
    return num_entries if num_entries < MEDIAN_STARTUP else math.ceil(num_entries / 2)


def _key(entry: Entry) -> tuple[float, float]:
    value = entry.values[0]
    return entry.violation, value if math.isfinite(value) else math.inf


def rank(entries: Mapping[int, Entry]) -> list[int]:
    """Trials from best to worst; ties keep the order of entry."""
    order: list[int] = []
    remaining = dict(entries)
    while remaining:
        front = [
            trial
            for trial, entry in remaining.items()
            if not any(_dominates(other, entry) for other in remaining.values())
        ]
        spread = _crowding([remaining[trial].values for trial in front])
        order += [trial for _, trial in sorted(zip(spread, front, strict=True), key=lambda pair: -pair[0])]
        for trial in front:
            del remaining[trial]
    return order


def _dominates(one: Entry, other: Entry) -> bool:
    if one.violation != other.violation:
        return one.violation < other.violation
    return dominates(_finite(one.values), _finite(other.values))


def _finite(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(value if math.isfinite(value) else math.inf for value in values)


def _crowding(points: Sequence[Sequence[float]]) -> list[float]:
    """NSGA-II's crowding distance of each point of a front; infinite for the extremes of each objective."""
    distance = [0.0] * len(points)
    for objective in range(len(points[0])):
        order = sorted(range(len(points)), key=lambda index: points[index][objective])
        low, high = points[order[0]][objective], points[order[-1]][objective]
        distance[order[0]] = distance[order[-1]] = math.inf
        if not (math.isfinite(high - low) and high > low):
            continue
        for position in range(1, len(order) - 1):
            gap = points[order[position + 1]][objective] - points[order[position - 1]][objective]
            distance[order[position]] += gap / (high - low)
    return distance
