"""How long a running study still takes, from steps and rungs."""

import time
from collections.abc import Callable, Sequence

from proxytune.tuning.spec.rungs import expected_steps
from proxytune.tuning.spec.study_spec import StudySpec

_PRIOR_TRIALS = 4.0
"""How many ended trials the expectation by the rungs alone counts as."""
_RISE = 1.5
"""An estimate above the one shown by less than this factor is noise: what is shown still falls, slower than the clock."""


def remaining_steps(spec: StudySpec, ended: Sequence[int], live: Sequence[int], budget: int) -> float:
    """Steps that the study still takes.

    Args:
        spec: the study.
        ended: the steps that each ended trial took.
        live: the steps that each running or interrupted trial has done.
        budget: the number of trials in all.
    """
    steps, rungs = int(spec.training["steps"]), spec.rung_steps()
    expected = expected_steps(spec.search.stopping, rungs, steps, budget) / budget
    mean = (sum(ended) + _PRIOR_TRIALS * expected) / (len(ended) + _PRIOR_TRIALS)
    begun = sum(
        max(mean, next((rung for rung in (*rungs, steps) if rung > step), step)) - step for step in live
    )
    return begun + max(0, budget - len(ended) - len(live)) * mean


class TimeLeft:
    """The time left at the speed since the first change in steps that this driver saw.

    That change itself does not count: it holds the start of Ray and of a worker, or the steps that a resumed trial had
    done before.
    """

    def __init__(self, spec: StudySpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec, self._clock = spec, clock
        self._before: int | None = None  # the steps done at the first look
        self._first: tuple[float, int] | None = (
            None  # when steps were first added, and the steps done by then
        )
        self._shown: tuple[float, float] | None = None  # when, and the seconds left then

    def remaining(self, ended: Sequence[int], live: Sequence[int], budget: int) -> float:
        """`remaining_steps` of this study."""
        return remaining_steps(self._spec, ended, live, budget)

    def seconds(self, ended: Sequence[int], live: Sequence[int], budget: int) -> float | None:
        """Seconds left; None until there is a speed. The arguments are those of `remaining_steps`."""
        done, now = sum(ended) + sum(live), self._clock()
        if self._before is None:
            self._before = done
        if self._first is None or done < self._first[1]:
            self._first = (now, done) if done != self._before else None
            return None
        began, before = self._first
        if done == before:
            return None
        left = self.remaining(ended, live, budget) * (now - began) / (done - before)
        if self._shown is not None:
            then, shown = self._shown
            if shown < left <= _RISE * shown:
                left = shown - (now - then) * shown / left
        self._shown = (now, left)
        return left


def duration(seconds: float) -> str:
    """For people: the two largest units."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
