"""The race itself: an event queue plays the workers, and a method decides what they do.

Regret of a method at a time: the task's best value less the full-budget value of the configuration in hand, by two
rules. "trained": the best one that has been trained to the full budget and can be exported as it is. "leader": the one
with the best last value, however early it was, as Ray's `get_best_result` chooses; what it would reach at the full
budget counts, although that training is still to be paid for.
"""

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.benchmarks.race.tables import Curve, Task

RULES = ("trained", "leader")


class Method(Protocol):
    """A search over a task."""

    now: float  # the race's clock, set before each call

    def ask(self) -> tuple[Any, Mapping[str, Any]]:
        """The trial for a free worker and its parameters; a trial that was told to end may come again, to go on."""

    def tell(self, trial: Any, report: int, value: float, seconds: float, ending: str) -> bool:
        """A report of a trial, the seconds it has run, and `running`, `complete` or `diverged`.

        Returns whether the worker is free.
        """


@dataclass
class Outcome:
    """What a race found: regret by rule at each budget, and what the search itself took."""

    regrets: dict[str, list[float]] = field(default_factory=lambda: {rule: [] for rule in RULES})
    asks: int = 0
    search_seconds: float = 0.0  # CPU time of all asks and tells


class Race:
    """One method on one task with one number of workers."""

    def __init__(self, task: Task, method: Method, num_workers: int) -> None:
        self._task = task
        self._method = method
        self._queue: list[tuple[float, int, Any, Curve, int]] = []
        self._order = 0
        self._next_report: dict[Any, int] = {}
        self._curves: dict[Any, Curve] = {}
        self._last: dict[Any, float] = {}
        self._trained = task.worst
        self.outcome = Outcome()
        for _ in range(num_workers):
            self._begin(0.0)

    def run(self, budgets: Sequence[float]) -> Outcome:
        """Play until each of the budgets, in seconds of the simulated clock, lowest first."""
        for budget in budgets:
            while self._queue[0][0] <= budget:
                self._step()
            self.outcome.regrets["trained"].append(self._task.best - self._trained)
            self.outcome.regrets["leader"].append(self._task.best - self._leading())
        return self.outcome

    def _begin(self, now: float) -> None:
        self._method.now = now
        began = time.process_time()
        trial, params = self._method.ask()
        self.outcome.search_seconds += time.process_time() - began
        self.outcome.asks += 1
        if trial not in self._curves:
            self._curves[trial] = self._task.curve(params)
        self._push(now, trial, self._next_report.get(trial, 0))

    def _push(self, now: float, trial: Any, report: int) -> None:
        curve = self._curves[trial]
        seconds = curve.seconds(report) - (curve.seconds(report - 1) if report else 0.0)
        self._order += 1
        heapq.heappush(self._queue, (now + seconds, self._order, trial, curve, report))

    def _step(self) -> None:
        now, _, trial, curve, report = heapq.heappop(self._queue)
        value = curve.value(report)
        last = report == len(self._task.steps) - 1
        ending = "running"
        if last and curve.complete:
            ending = "complete"
            self._trained = max(self._trained, value)
        elif curve.diverges(report):
            ending = "diverged"
        self._last[trial] = value
        self._next_report[trial] = report + 1
        began = time.process_time()
        free = self._method.tell(trial, report, value, curve.seconds(report), ending)
        self.outcome.search_seconds += time.process_time() - began
        if free:
            self._begin(now)
        else:
            self._push(now, trial, report + 1)

    def _leading(self) -> float:
        if not self._last:
            return self._task.worst
        curve = self._curves[max(self._last, key=self._last.__getitem__)]
        return curve.value(len(self._task.steps) - 1) if curve.complete else self._task.worst
