"""Estimates the remaining time of a running study from steps and rungs."""

import heapq
import time
from collections.abc import Callable, Sequence

from proxytune.tuning.spec.rungs import CURVE_CONTINUES
from proxytune.tuning.spec.study_spec import StudySpec

_PRIOR_TRIALS = 10.0
"""Weight, in trials at a rung, of the continuation rate expected from the stopping rule alone."""
_RISE = 1.5
"""A rise of the estimate by less than this factor is noise: the shown value is kept."""


class StepsLeft:
    """Expected remaining steps of a study, from the fraction of trials that continued at each rung so far."""

    def __init__(self, spec: StudySpec, ended: Sequence[int], live: Sequence[int], budget: int) -> None:
        """`ended` and `live` are the completed steps of each ended trial and of each other started trial."""
        self._ends = (*spec.rung_steps(), int(spec.training["steps"]))
        self._continuing = []
        for rung in self._ends[:-1]:
            passed = sum(step > rung for step in (*ended, *live))
            arrived = passed + sum(step == rung for step in ended)
            prior = _continuation_rate(spec, arrived + 1, budget)
            self._continuing.append((passed + _PRIOR_TRIALS * prior) / (arrived + _PRIOR_TRIALS))
        self.live = [self.after(step) for step in live]
        self.num_new = max(0, budget - len(ended) - len(live))

    def after(self, step: int) -> float:
        """Expected remaining steps of a trial after `step` steps."""
        left, share = 0.0, 1.0
        for end, continuing in zip(self._ends, (*self._continuing, 0.0), strict=True):
            if end > step:
                left += share * (end - step)
                step, share = end, share * continuing
        return left

    @property
    def total(self) -> float:
        return sum(self.live) + self.num_new * self.after(0)

    def longest(self, slots: int) -> float:
        """Steps of the slot that works longest, if each free slot takes the next trial."""
        ends = [0.0] * slots
        for steps in [*self.live, *[self.after(0)] * self.num_new]:
            heapq.heapreplace(ends, ends[0] + steps)
        return max(ends)


def _continuation_rate(spec: StudySpec, first: int, last: int) -> float:
    """Expected fraction of the `first`-th to `last`-th arrivals at a rung that continue, if ranks are random.

    For `median` it is above one half: its rungs are close together, so a trial's ranks at successive rungs correlate.
    """
    stopping = spec.search.stopping
    if stopping.name == "median":
        return 0.65
    if stopping.name == "curve":
        return CURVE_CONTINUES
    numbers = range(first, max(first, min(last, first + 100)) + 1)
    return sum(min(1.0, (n // stopping.reduction_factor + 1) / n) for n in numbers) / len(numbers)


class TimeLeft:
    """The remaining time at the speed measured since the first change in steps that this driver observed.

    That change is excluded: it includes the start of Ray and of a worker, or the earlier steps of a resumed trial. The
    speed is measured per slot, so it includes starts and evaluations of trials. A free slot takes the next trial, so the
    study ends with the slot that works longest.
    """

    def __init__(self, spec: StudySpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec, self._clock = spec, clock
        self._looked: tuple[float, int] | None = None  # time of the last call, and the steps done then
        self._began = False
        self._slot_seconds, self._steps = 0.0, 0  # since the first change
        self._slots = 0  # largest number of concurrent trials
        self._shown: float | None = None

    def remaining(self, ended: Sequence[int], live: Sequence[int], budget: int) -> float:
        """Expected remaining steps of this study."""
        return StepsLeft(self._spec, ended, live, budget).total

    def seconds(
        self, ended: Sequence[int], live: Sequence[int], budget: int, waiting: Sequence[int] = ()
    ) -> float | None:
        """Remaining seconds; None until a speed is measured, or while nothing runs.

        Args:
            ended: completed steps of each ended trial.
            live: completed steps of each running trial.
            budget: total number of trials.
            waiting: completed steps of each interrupted or enqueued trial.
        """
        now, done = self._clock(), sum(ended) + sum(live) + sum(waiting)
        then, before = self._looked or (now, done)
        self._looked = (now, done)
        if self._began:
            self._slot_seconds += (now - then) * len(live)
            self._steps += done - before  # negative if steps of a lost worker are repeated
        self._began = self._began or done > before
        if self._steps <= 0 or not live:
            return None
        steps = StepsLeft(self._spec, ended, [*live, *waiting], budget)
        self._slots = max(self._slots, len(live))
        left = steps.longest(self._slots) * self._slot_seconds / self._steps
        if (shown := self._shown) is not None:
            last = not waiting and not steps.num_new  # only running trials remain: the estimate never rises
            if shown < left and (last or left <= _RISE * shown):
                left = shown
        self._shown = left
        return left


def duration(seconds: float) -> str:
    """Format seconds in their two largest units."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
