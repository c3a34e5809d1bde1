"""An event queue plays the workers of a search, so that its hours take seconds."""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Ending = Literal["running", "complete", "diverged"]


class Curve(Protocol):
    """One training: its reports count from 0."""

    def value(self, report: int) -> float:
        """The value of a report."""

    def seconds(self, report: int) -> float:
        """For how long the training had run at that report."""

    def ending(self, report: int) -> Ending:
        """Whether the training ends with that report, by itself."""


class Method(Protocol):
    """A search."""

    now: float  # the virtual time in seconds, set before each call

    def ask(self) -> tuple[Any, Mapping[str, Any]] | None:
        """The trial for a free worker and its parameters; None: there is none any more.

        A trial that was told to end may come again, to go on.
        """

    def tell(self, trial: Any, report: int, value: float, seconds: float, ending: Ending) -> bool:
        """A report of a trial, and the seconds it has run. Returns whether the worker is free."""


@dataclass(frozen=True)
class Told:
    """A report that a method was told."""

    trial: Any
    report: int
    value: float
    ending: Ending


class Workers:
    """Each worker takes a trial, trains to its next report, tells it, then goes on or takes another trial.

    Attributes:
        curves: of every trial that was begun.
        busy_seconds: of all workers together, up to the last report of each.
    """

    def __init__(
        self,
        method: Method,
        curve: Callable[[Mapping[str, Any]], Curve],
        number: int,
        began: float = 0.0,
    ) -> None:
        """`curve` gives the training of a configuration; `number` of workers begin at time `began`."""
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
        """When the next report comes; None: all workers are idle for good."""
        return self._queue[0][0] if self._queue else None

    def step(self) -> Told:
        """Tell the next report."""
        now, _, trial, report = heapq.heappop(self._queue)
        curve = self.curves[trial]
        told = Told(trial, report, curve.value(report), curve.ending(report))
        self._next_report[trial] = report + 1
        self._method.now = now
        self.busy_seconds += self._seconds(curve, report)
        if self._method.tell(trial, report, told.value, curve.seconds(report), told.ending):
            self._begin(now)
        else:
            self._push(now, trial, report + 1)
        return told

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
