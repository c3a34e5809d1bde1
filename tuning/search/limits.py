"""The budget of a study: trials, training steps and seconds, over all its drivers."""

import time
from collections.abc import Callable, Iterable

import optuna
from optuna.trial import FrozenTrial

from proxytune.tuning.search.running import RunningTrial
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import END, SECONDS, SECONDS_LEFT, reported_steps


class Limits:
    """The budget of a study and what it has spent.

    Attributes:
        budget: trials in all; 0 until the controller has read the stored one.
        started: trials of the budget that are spent or running.
        spent_steps: training steps of trials that are not live.
        seconds_left: until the study's end, by the estimate of run/progress.py; None: not known.
    """

    def __init__(self, spec: StudySpec, clock: Callable[[], float] | None = None) -> None:
        """`clock` gives seconds; default: this machine's, while a simulated study has a time of its own."""
        self._search = spec.search
        self._clock = clock or time.monotonic
        self.budget = 0
        self.started = 0
        self.spent_steps = 0
        self.seconds_left: float | None = None
        self.resume(0.0)

    def resume(self, seconds: float) -> None:
        """Start the clock; `seconds` are those of earlier drivers."""
        self._seconds = seconds
        self._began = self._clock()

    def store(self, study: optuna.Study) -> None:
        """Keep the times for the next driver and for readers."""
        study.set_user_attr(SECONDS, self.seconds)
        if study.user_attrs.get(SECONDS_LEFT) != self.seconds_left:
            study.set_user_attr(SECONDS_LEFT, self.seconds_left)

    def count(self, trial: FrozenTrial) -> None:
        """Count a trial of earlier drivers, which is not live."""
        end = trial.user_attrs.get(END)
        self.started += trial.state.is_finished() or end is not None
        self.spent_steps += end["step"] if end is not None else max(reported_steps(trial), default=0)

    @property
    def seconds(self) -> float:
        """For how long the study has been run, over all drivers."""
        return self._seconds + self._clock() - self._began

    def spent(self, live: Iterable[RunningTrial]) -> str | None:
        """Which of max_seconds and max_steps is used up, if one is."""
        steps = self.spent_steps + sum(trial.step for trial in live)
        if self._search.max_steps is not None and steps >= self._search.max_steps:
            return f"search.max_steps {self._search.max_steps} is spent"
        if self._search.max_seconds is not None and self.seconds >= self._search.max_seconds:
            return f"search.max_seconds {self._search.max_seconds:g} is spent"
        return None
