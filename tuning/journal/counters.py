"""A study's counters, computed from its events and shown in the parent run.

Every point of a counter is a function of the journal up to the end of one trial. Shipping the same events again, in
portions of any size, gives the same points.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxytune.tuning.journal.events import (
    BudgetChanged,
    Confirmed,
    Event,
    Reported,
    StudyStarted,
    TrialEnded,
    TrialStarted,
)
from proxytune.tuning.spec.constraints import feasible, parse_constraints
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.ranking import BEST_SEARCH_VALUE, signed


@dataclass
class Counters:
    """Counters up to a point of the journal. All fields are numbers, text, lists or dicts, since it is stored as JSON."""

    directions: dict[str, str] = field(default_factory=dict)  # objective -> maximize | minimize
    constraints: dict[str, str] = field(default_factory=dict)  # metric -> rule
    rungs: list[int] = field(default_factory=list)  # the steps at which trials are compared
    resources: dict[str, float] = field(default_factory=dict)  # per trial: cpu, gpu
    budget: int = 0  # total number of trials
    outcomes: dict[str, int] = field(default_factory=dict)  # final ends by outcome
    running: dict[str, dict[str, Any]] = field(default_factory=dict)  # trials without a final end
    best: dict[str, float] = field(default_factory=dict)  # over complete, feasible trials
    best_trial: dict[str, int] = field(default_factory=dict)
    rank: dict[str, list[float]] = field(default_factory=dict)  # of each best trial: signed values, number
    confirmed: dict[str, Any] = field(default_factory=dict)  # trial and rule of the confirmation
    steps: int = 0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0

    @property
    def num_ended(self) -> int:
        return sum(self.outcomes.values())

    def fold(self, event: Event) -> dict[str, float]:
        """Update the counters with one event. Returns their new values after a trial's final end, else an empty dict."""
        match event:
            case StudyStarted():
                self._begin(event)
            case BudgetChanged():
                self.budget = event.trials
            case TrialStarted():
                self._start(event)
            case Reported():
                self._see(event)
            case Confirmed():
                self.confirmed = {"trial": event.winner, "rule": event.rule}
            case TrialEnded():
                self._see(event)
                return self._end(event)
        return {}

    @property
    def winner(self) -> dict[str, Any]:
        """`trial` and `rule` of the winner; empty while no trial is eligible."""
        first = next(iter(self.directions), "")
        found = {"trial": self.best_trial[first], "rule": BEST_SEARCH_VALUE} if first in self.best else {}
        return self.confirmed or found

    def _begin(self, event: StudyStarted) -> None:
        search, given = event.spec.get("search", {}), event.spec.get("resources", {})
        self.directions = dict(search.get("objectives") or {})
        self.constraints = dict(search.get("constraints") or {})
        self.rungs = rung_steps(event.spec)
        self.budget = event.budget or search.get("trials") or 0
        self.resources = {key: _number(given.get(key)) for key in ("cpu", "gpu")}

    def _start(self, event: TrialStarted) -> None:
        open_trial = self.running.setdefault(str(event.trial), {"last": {}, "step": 0})
        held = event.resources.model_dump() if event.resources else self.resources
        open_trial |= {"since_ms": event.time_ms, "cpu": held.get("cpu", 0.0), "gpu": held.get("gpu", 0.0)}

    def last_values(self, event: TrialEnded) -> dict[str, float]:
        """Objectives and constrained metrics of a trial at its end. To be called before `fold(event)`."""
        known: dict[str, float] = self.running.get(str(event.trial), {}).get("last", {})
        return known | event.metrics

    def rung(self, step: int) -> int:
        """Number of rungs that a trial has reached at this step."""
        return sum(rung <= step for rung in self.rungs)

    def feasible(self, metrics: Mapping[str, float]) -> bool:
        """Whether a trial with these metrics satisfies every constraint."""
        return feasible(parse_constraints(self.constraints), metrics)

    def _see(self, event: Reported | TrialEnded) -> None:
        open_trial = self.running.get(str(event.trial))
        if open_trial is not None:
            open_trial["step"] = max(open_trial["step"], event.step)
            watched = (*self.directions, *self.constraints)
            open_trial["last"] |= {key: event.metrics[key] for key in watched if key in event.metrics}

    def _end(self, event: TrialEnded) -> dict[str, float]:
        key, outcome = str(event.trial), event.outcome
        open_trial = self.running.get(key, {"last": {}, "step": event.step, "cpu": 0, "gpu": 0})
        seconds = max(0, event.time_ms - open_trial.pop("since_ms", event.time_ms)) / 1000
        self.cpu_seconds += seconds * open_trial["cpu"]
        self.gpu_seconds += seconds * open_trial["gpu"]
        if not outcome.is_final:
            return {}
        self.running.pop(key, None)
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.steps += open_trial["step"]
        if outcome is Outcome.COMPLETE and self.feasible(open_trial["last"]):
            self._compare(event.trial, open_trial["last"])
        return self.counters()

    def _compare(self, number: int, metrics: Mapping[str, float]) -> None:
        """Update the best trial of each objective, in the order of `ranking.best`."""
        for name in self.directions:
            rank = [*signed(metrics, {name: self.directions[name]} | self.directions), number]
            if math.isfinite(rank[0]) and (name not in self.rank or rank < self.rank[name]):
                self.best[name], self.best_trial[name], self.rank[name] = metrics[name], number, rank

    def counters(self) -> dict[str, float]:
        """The current values, by metric name."""
        failed = sum(count for outcome, count in self.outcomes.items() if Outcome(outcome).is_error)
        return {
            "trials_complete": self.outcomes.get(Outcome.COMPLETE, 0),
            "trials_pruned": self.outcomes.get(Outcome.PRUNED, 0),
            "trials_stopped": self.outcomes.get(Outcome.STOPPED, 0),
            "trials_failed": failed,
            "trials_open": len(self.running),
            "steps_trained": self.steps,
            "cpu_hours": self.cpu_seconds / 3600,
            "gpu_hours": self.gpu_seconds / 3600,
            **{f"best_{name}": value for name, value in self.best.items()},
        }


def rung_steps(spec: Mapping[str, Any]) -> list[int]:
    """`StudySpec.rung_steps` for a resolved spec as plain values, since the shipper must not import models and torch."""
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
