"""The budget of a study: trials, training steps and seconds, summed over all its drivers."""

import time
from collections.abc import Callable, Iterable

import optuna
from optuna.trial import FrozenTrial

from proxytune.tuning.search.running import RunningTrial
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import END, SECONDS, SECONDS_LEFT, reported_steps


class Limits:
    """The budget of a study and how much of it is spent.

    Attributes:
        budget: total number of trials; 0 until the controller has read the stored budget.
        started: number of trials that have ended or are running.
        spent_steps: training steps of trials that are not running.
        seconds_left: estimated seconds until the study ends, set by run/progress.py; None: not known.
    """

    def __init__(self, spec: StudySpec, clock: Callable[[], float] | None = None) -> None:
        """`clock` returns seconds; default: `time.monotonic`. A simulated study passes its virtual clock."""
        self._search = spec.search
        self._clock = clock or time.monotonic
        self.budget = 0
        self.started = 0
        self.spent_steps = 0
        self.seconds_left: float | None = None
        self.resume(0.0)

    def resume(self, seconds: float) -> None:
        """Start the clock at `seconds`, the run time of earlier drivers."""
        self._seconds = seconds
        self._began = self._clock()

    def store(self, study: optuna.Study) -> None:
        """Store the times for the next driver and for readers."""
        study.set_user_attr(SECONDS, self.seconds)
        if study.user_attrs.get(SECONDS_LEFT) != self.seconds_left:
            study.set_user_attr(SECONDS_LEFT, self.seconds_left)

    def count(self, trial: FrozenTrial) -> None:
        """Count a trial found in the storage, which is not running."""
        end = trial.user_attrs.get(END)
        self.started += trial.state.is_finished() or end is not None
        self.spent_steps += end["step"] if end is not None else max(reported_steps(trial), default=0)

    @property
    def seconds(self) -> float:
        """Run time of the study, summed over all drivers."""
        return self._seconds + self._clock() - self._began

    def spent(self, live: Iterable[RunningTrial]) -> str | None:
        """Message naming the exhausted limit (max_seconds or max_steps); None if neither is exhausted."""
        steps = self.spent_steps + sum(trial.step for trial in live)
        if self._search.max_steps is not None and steps >= self._search.max_steps:
            return f"search.max_steps {self._search.max_steps} is spent"
        if self._search.max_seconds is not None and self.seconds >= self._search.max_seconds:
            return f"search.max_seconds {self._search.max_seconds:g} is spent"
        return None
