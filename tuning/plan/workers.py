"""Simulates the workers of a search with an event queue, so that hours take seconds."""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Ending = Literal["running", "complete", "diverged"]


class Curve(Protocol):
    """The learning curve of a training; reports are numbered from 0."""

    def value(self, report: int) -> float:
        """Value of a report."""

    def seconds(self, report: int) -> float:
        """Training time at a report, in seconds."""

    def ending(self, report: int) -> Ending:
        """Whether the training itself ends with a report, and how."""


class Method(Protocol):
    """A search method."""

    now: float  # virtual time in seconds, set before each call

    def ask(self) -> tuple[Any, Mapping[str, Any]] | None:
        """The next trial for a free worker and its parameters; None: no trials are left.

        A trial that was stopped may be returned again to resume.
        """

    def tell(self, trial: Any, report: int, value: float, seconds: float, ending: Ending) -> bool:
        """Receive a report of a trial and its training time; return whether the worker is free."""


@dataclass(frozen=True)
class Report:
    """A report that the method has received."""

    trial: Any
    value: float
    ending: Ending


class Workers:
    """Each worker takes a trial, trains to its next report, sends it, then continues or takes another trial.

    Attributes:
        curves: the curve of every started trial.
        busy_seconds: training time summed over all workers, up to the last report of each.
    """

    def __init__(
        self,
        method: Method,
        curve: Callable[[Mapping[str, Any]], Curve],
        number: int,
        began: float = 0.0,
    ) -> None:
        """`curve` returns the learning curve of a configuration; `number` workers start at time `began`."""
        self._method = method
        self._curve = curve
        self._queue: list[tuple[float, int, Any, int]] = []
        self._order = 0
        self._next_report: dict[Any, int] = {}
        self.curves: dict[Any, Any] = {}
        self.busy_seconds = 0.0
        for _ in range(number):
            self._begin(began)

    @property
    def next_time(self) -> float | None:
        """Time of the next report; None: all workers are idle and no trials are left."""
        return self._queue[0][0] if self._queue else None

    def step(self) -> Report:
        """Advance to the next report and pass it to the method."""
        now, _, trial, report = heapq.heappop(self._queue)
        curve = self.curves[trial]
        sent = Report(trial, curve.value(report), curve.ending(report))
        self._next_report[trial] = report + 1
        self._method.now = now
        self.busy_seconds += self._seconds(curve, report)
        if self._method.tell(trial, report, sent.value, curve.seconds(report), sent.ending):
            self._begin(now)
        else:
            self._push(now, trial, report + 1)
        return sent

    def _begin(self, now: float) -> None:
        self._method.now = now
        asked = self._method.ask()
        if asked is None:
            return
        trial, params = asked
        if trial not in self.curves:
            self.curves[trial] = self._curve(params)
        self._push(now, trial, self._next_report.get(trial, 0))

    def _push(self, now: float, trial: Any, report: int) -> None:
        self._order += 1
        when = now + self._seconds(self.curves[trial], report)
        heapq.heappush(self._queue, (when, self._order, trial, report))

    @staticmethod
    def _seconds(curve: Curve, report: int) -> float:
        return curve.seconds(report) - (curve.seconds(report - 1) if report else 0.0)
