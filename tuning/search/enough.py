"""`search.stop_when`: a study ends when the next configuration is not expected to gain enough.

The expected gain is that of the curve model (curve_model.py) over all curves, stopped ones too, whichever sampler
proposes: the highest expectation, over configurations, of how far the value at the full budget exceeds the best complete
trial's. Optuna's terminators were not used: they fit their process to complete trials only (20 of them at least for
RegretBoundEvaluator), of which a search with early stopping has few, and their bound on the regret is no gain.
"""

import numpy as np
import optuna
from optuna.trial import TrialState

from proxytune.tuning.journal.events import Noted
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.search.limits import Limits
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import ENOUGH

MIN_ENDED = 10
"""Trials that must have ended before the question is asked; TPE's random ones."""


class Enough:
    """Whether the study has ended by its `search.stop_when`; the storage knows it."""

    def __init__(self, spec: StudySpec, study: optuna.Study, outbox: Outbox, limits: Limits) -> None:
        self._spec = spec
        self._study = study
        self._outbox = outbox
        self._limits = limits
        self._ended = study.user_attrs.get(ENOUGH)

    @property
    def reason(self) -> str | None:
        """Why it has ended. A budget other than the one at that time is a wish to go on, up to that budget."""
        if self._ended is None or self._ended["budget"] != self._limits.budget:
            return None
        return str(self._ended["reason"])

    def look(self, number: int) -> bool:
        """Whether it ends now, before the trial of this number begins; interrupted and enqueued ones go first."""
        rule = self._spec.search.stop_when
        if rule is None or self._ended is not None:
            return False
        trials = self._study.get_trials(deepcopy=False)
        states = [trial.state for trial in trials]
        if TrialState.WAITING in states or sum(state.is_finished() for state in states) < MIN_ENDED:
            return False
        from proxytune.tuning.search.curve_sampler import CurveSampler  # scipy: not at the start of a driver

        seed = int(np.random.SeedSequence([self._spec.search.sampler.seed, number, 1]).generate_state(1)[0])
        gain = CurveSampler(self._spec, seed).expected_gain(self._study)
        if gain is None or gain >= rule.expected_gain_below:
            return False
        reason = f"an expected gain of {gain:.2g} is below {rule.expected_gain_below:g} after {number} trials"
        self._ended = {"reason": reason, "budget": self._limits.budget}
        self._study.set_user_attr(ENOUGH, self._ended)
        self._outbox.append(Noted(text=f"the study ends because {reason}"))
        return True
