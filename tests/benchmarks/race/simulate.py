"""Simulate a race: an event queue simulates the workers (tuning/plan/workers.py), a method proposes and stops trials.

Regret of a method at a time: the task's best value minus the full-budget value of the chosen configuration, by two
rules. "trained": the best configuration that has been trained to the full budget. "leader": the configuration with the
best last value at any step, as in Ray's `get_best_result`, evaluated by its value at the full budget, although the
rest of that training is not included in the time.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from proxytune.tuning.plan.workers import Ending, Method, Workers
from tests.benchmarks.race.tables import Task

P, R = ParamSpec("P"), TypeVar("R")
RULES = ("trained", "leader")


@dataclass
class Outcome:
    """The result of a race: regret by rule at each budget, and the cost of the search."""

    regrets: dict[str, list[float]] = field(default_factory=lambda: {rule: [] for rule in RULES})
    asks: int = 0
    search_seconds: float = 0.0  # CPU time of all asks and tells


class Race:
    """One method on one task with a number of workers; wraps the method to measure its CPU time."""

    now = 0.0

    def __init__(self, task: Task, method: Method, num_workers: int) -> None:
        self._task = task
        self._method = method
        self._last: dict[Any, float] = {}
        self._trained = task.worst
        self.outcome = Outcome()
        self._workers = Workers(self, task.curve, num_workers)

    def run(self, budgets: Sequence[float]) -> Outcome:
        """Simulate until each of the budgets, in seconds of simulated time, in increasing order."""
        for budget in budgets:
            while (when := self._workers.next_time) is not None and when <= budget:
                report = self._workers.step()
                self._last[report.trial] = report.value
                if report.ending == "complete":
                    self._trained = max(self._trained, report.value)
            self.outcome.regrets["trained"].append(self._task.best - self._trained)
            self.outcome.regrets["leader"].append(self._task.best - self._leading())
        return self.outcome

    def ask(self) -> tuple[Any, Mapping[str, Any]] | None:
        self._method.now = self.now
        self.outcome.asks += 1
        return self._timed(self._method.ask)

    def tell(self, trial: Any, report: int, value: float, seconds: float, ending: Ending) -> bool:
        self._method.now = self.now
        return self._timed(self._method.tell, trial, report, value, seconds, ending)

    def _timed(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        began = time.process_time()
        try:
            return work(*args, **kwargs)
        finally:
            self.outcome.search_seconds += time.process_time() - began

    def _leading(self) -> float:
        if not self._last:
            return self._task.worst
        curve = self._workers.curves[max(self._last, key=self._last.__getitem__)]
        return float(curve.value(len(self._task.steps) - 1)) if curve.complete else self._task.worst
