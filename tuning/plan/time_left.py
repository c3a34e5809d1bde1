"""How long a running study still takes, from steps and rungs."""

import heapq
import time
from collections.abc import Callable, Sequence

from proxytune.tuning.spec.study_spec import StudySpec

_PRIOR_TRIALS = 10.0
"""How many trials at a rung the expectation by the stopping rule alone counts as."""
_RISE = 1.5
"""An estimate above the one shown by less than this factor is noise: what is shown stays until it is true."""


class StepsLeft:
    """Steps that a study's trials are expected to take still, by how many went on at each rung so far."""

    def __init__(self, spec: StudySpec, ended: Sequence[int], live: Sequence[int], budget: int) -> None:
        """`ended` are the steps that each ended trial took, `live` those that each other trial has done."""
        self._ends = (*spec.rung_steps(), int(spec.training["steps"]))
        self._goes_on = []
        for rung in self._ends[:-1]:
            passed = sum(step > rung for step in (*ended, *live))
            arrived = passed + sum(step == rung for step in ended)
            prior = _share_that_goes_on(spec, arrived + 1, budget)
            self._goes_on.append((passed + _PRIOR_TRIALS * prior) / (arrived + _PRIOR_TRIALS))
        self.live = [self.after(step) for step in live]
        self.num_new = max(0, budget - len(ended) - len(live))

    def after(self, step: int) -> float:
        """Of a trial that has done so many."""
        left, share = 0.0, 1.0
        for end, goes_on in zip(self._ends, (*self._goes_on, 0.0), strict=True):
            if end > step:
                left += share * (end - step)
                step, share = end, share * goes_on
        return left

    @property
    def total(self) -> float:
        return sum(self.live) + self.num_new * self.after(0)

    def longest(self, slots: int) -> float:
        """Of the slot that works longest, if a free one takes the next trial."""
        ends = [0.0] * slots
        for steps in [*self.live, *[self.after(0)] * self.num_new]:
            heapq.heapreplace(ends, ends[0] + steps)
        return max(ends)


def _share_that_goes_on(spec: StudySpec, first: int, last: int) -> float:
    """Of the trials that are the n-th at a rung for n from `first` to `last`, if ranks are random.

    Of `median` more than half: its rungs are close to each other, and who was good at one is at the next.
    """
    stopping = spec.search.stopping
    if stopping.name == "median":
        return 0.65
    numbers = range(first, max(first, min(last, first + 100)) + 1)
    return sum(min(1.0, (n // stopping.reduction_factor + 1) / n) for n in numbers) / len(numbers)


class TimeLeft:
    """The time left at the speed since the first change in steps that this driver saw.

    That change itself does not count: it holds the start of Ray and of a worker, or the steps that a resumed trial had
    done before. The speed is that of a slot, so it holds the starts and evaluations of trials. A free slot takes the next
    trial, so the end is that of the slot that works longest.
    """

    def __init__(self, spec: StudySpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec, self._clock = spec, clock
        self._looked: tuple[float, int] | None = None  # when, and the steps done then
        self._began = False
        self._slot_seconds, self._steps = 0.0, 0  # since the first change
        self._slots = 0  # the most trials that ran at once
        self._shown: float | None = None

    def remaining(self, ended: Sequence[int], live: Sequence[int], budget: int) -> float:
        """Steps that are left of this study."""
        return StepsLeft(self._spec, ended, live, budget).total

    def seconds(
        self, ended: Sequence[int], live: Sequence[int], budget: int, waiting: Sequence[int] = ()
    ) -> float | None:
        """Seconds left; None until there is a speed, or while nothing runs.

        Args:
            ended: the steps that each ended trial took.
            live: the steps that each running trial has done.
            budget: the number of trials in all.
            waiting: the steps of each trial that was interrupted or enqueued.
        """
        now, done = self._clock(), sum(ended) + sum(live) + sum(waiting)
        then, before = self._looked or (now, done)
        self._looked = (now, done)
        if self._began:
            self._slot_seconds += (now - then) * len(live)
            self._steps += done - before  # below zero where a lost worker's steps are done again
        self._began = self._began or done > before
        if self._steps <= 0 or not live:
            return None
        steps = StepsLeft(self._spec, ended, [*live, *waiting], budget)
        self._slots = max(self._slots, len(live))
        left = steps.longest(self._slots) * self._slot_seconds / self._steps
        if (shown := self._shown) is not None:
            last = not waiting and not steps.num_new  # no trial can bring surprises: it never rises
            if shown < left and (last or left <= _RISE * shown):
                left = shown
        self._shown = left
        return left


def duration(seconds: float) -> str:
    """For people: the two largest units."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
