"""A study's counters, folded from its events: what the parent run shows while the study goes on.

Every point of a counter is a function of the journal up to one final end, so that shipping the same events
again, in whatever portions, gives the same points.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxytune.tuning.journal.outbox import Event
from proxytune.tuning.spec import constraints, ranking
from proxytune.tuning.spec.ranking import BEST_SEARCH_VALUE

GOOD = ("complete", "pruned")


@dataclass
class Counters:
    """Counters up to some point of the journal; holds only numbers, text, lists and dicts (it goes to JSON)."""

    directions: dict[str, str] = field(default_factory=dict)  # objective -> maximize | minimize
    constraints: dict[str, str] = field(default_factory=dict)  # metric -> rule; who breaks one is no best
    rungs: list[int] = field(default_factory=list)  # the steps at which trials are compared
    resources: dict[str, float] = field(default_factory=dict)  # of one trial: cpu, gpu
    outcomes: dict[str, int] = field(default_factory=dict)  # final ends by outcome
    running: dict[str, dict[str, Any]] = field(default_factory=dict)  # trials without a final end
    best: dict[str, float] = field(default_factory=dict)  # over complete trials that break no constraint
    best_trial: dict[str, int] = field(default_factory=dict)
    rank: dict[str, list[float]] = field(default_factory=dict)  # of `best_trial`: see ranking.ordered
    confirmed: dict[str, Any] = field(default_factory=dict)  # {"trial", "rule"} of the confirmation
    steps: int = 0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0

    @property
    def num_ended(self) -> int:
        return sum(self.outcomes.values())

    def fold(self, event: Event) -> dict[str, float]:
        """Take one event in; the counters' new values after a trial's final end, else nothing."""
        kind = event["kind"]
        if kind == "study":
            search = event["spec"].get("search", {})
            self.directions = dict(search.get("objectives") or {})
            self.constraints = dict(search.get("constraints") or {})
            self.rungs = rung_steps(event["spec"])
            given = event["spec"].get("resources", {})
            self.resources = {key: _number(given.get(key)) for key in ("cpu", "gpu")}
        elif kind == "trial":
            open_trial = self.running.setdefault(
                str(event["trial"]), {"last": {}, "step": 0, "cpu": 0, "gpu": 0}
            )
            open_trial["since_ms"] = event["time_ms"]
            for key in ("cpu", "gpu"):
                open_trial[key] = _number(event.get("resources", {}).get(key, self.resources.get(key)))
        elif kind == "report":
            self._see(event)
        elif kind == "end":
            self._see(event)
            return self._end(event)
        elif kind == "confirmation":
            self.confirmed = {"trial": event["winner"], "rule": event["rule"]}
        return {}

    @property
    def winner(self) -> dict[str, Any]:
        """The winner's `trial` and `rule`; empty while no trial is eligible."""
        first = next(iter(self.directions), "")
        found = {"trial": self.best_trial[first], "rule": BEST_SEARCH_VALUE} if first in self.best else {}
        return self.confirmed or found

    def rung(self, step: int) -> int:
        """How many rungs a trial has reached with this step."""
        return sum(rung <= step for rung in self.rungs)

    def feasible(self, metrics: Mapping[str, float]) -> bool:
        """Whether a trial with these metrics breaks no constraint."""
        return constraints.feasible(constraints.parse_constraints(self.constraints), metrics)

    def _see(self, event: Event) -> None:
        open_trial = self.running.get(str(event["trial"]))
        if open_trial is not None:
            open_trial["step"] = max(open_trial["step"], event["step"])
            watched = (*self.directions, *self.constraints)
            open_trial["last"] |= {key: event["metrics"][key] for key in watched if key in event["metrics"]}

    def _end(self, event: Event) -> dict[str, float]:
        key, outcome = str(event["trial"]), event["outcome"]
        open_trial = self.running.get(key, {"last": {}, "step": event["step"], "cpu": 0, "gpu": 0})
        seconds = max(0, event["time_ms"] - open_trial.pop("since_ms", event["time_ms"])) / 1000
        self.cpu_seconds += seconds * open_trial["cpu"]
        self.gpu_seconds += seconds * open_trial["gpu"]
        if outcome == "interrupted":
            return {}
        self.running.pop(key, None)
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.steps += open_trial["step"]
        if outcome == "complete" and self.feasible(open_trial["last"]):
            self._compare(event["trial"], open_trial["last"])
        return self.counters()

    def _compare(self, number: int, metrics: Mapping[str, float]) -> None:
        """Keep the trial as best for each objective for which it ranks before the best one so far."""
        for name in self.directions:
            first = {name: self.directions[name]} | self.directions
            rank = [*ranking.signed(metrics, first), number]
            if math.isfinite(rank[0]) and (name not in self.rank or rank < self.rank[name]):
                self.best[name], self.best_trial[name], self.rank[name] = metrics[name], number, rank

    def counters(self) -> dict[str, float]:
        """The numbers of now, by metric name."""
        failed = sum(count for outcome, count in self.outcomes.items() if outcome not in GOOD)
        return {
            "trials_complete": self.outcomes.get("complete", 0),
            "trials_pruned": self.outcomes.get("pruned", 0),
            "trials_failed": failed,
            "trials_open": len(self.running),
            "steps_trained": self.steps,
            "cpu_hours": self.cpu_seconds / 3600,
            "gpu_hours": self.gpu_seconds / 3600,
            **{f"best_{name}": value for name, value in self.best.items()},
        }


def rung_steps(spec: Mapping[str, Any]) -> list[int]:
    """`StudySpec.rung_steps` of a resolved spec as plain values: the shipper is to import neither models nor torch."""
    stopping, training = spec.get("search", {}).get("stopping") or {}, spec.get("training", {})
    every, steps = training.get("eval_every"), training.get("steps", 0)
    rung = stopping.get("min_steps") or every
    if stopping.get("name", "none") == "none" or not rung:
        return []
    if stopping["name"] == "median":
        return [step for step in range(every, steps, every) if step >= rung]
    rungs = []
    while rung < steps:
        rungs.append(rung)
        rung *= stopping["reduction_factor"]
    return rungs


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
