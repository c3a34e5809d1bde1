"""What is private in Optuna: each class or function names the public interface that is missing.

`tests/tuning/store/test_optuna_private.py` fails in one sentence when a new version of Optuna changes one of these.
"""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial


class StudyView:
    """A study whose list of trials begins with earlier ones; everything else is the study's own.

    Missing: a way to show a sampler the trials of another study. `Study.add_trial` would give them numbers in this one.
    """

    def __init__(self, study: optuna.Study, earlier: Sequence[FrozenTrial]) -> None:
        self._own = study
        self._earlier = earlier

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)

    def _get_trials(
        self, deepcopy: bool = True, states: Any = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        earlier = [trial for trial in self._earlier if states is None or trial.state in states]
        return earlier + self._own._get_trials(deepcopy, states, use_cache)


def running_trial(study: optuna.Study, trial_id: int) -> optuna.Trial:
    """A RUNNING trial that another process asked for.

    Missing: `Study.ask` returns a Trial only to the process that asks; `Trial` has a constructor, but it is internal.
    """
    return optuna.Trial(study, trial_id)
