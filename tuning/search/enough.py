"""`search.stop_when`: ends a study when the expected gain of another configuration falls below a threshold.

The expected gain is computed by the curve model (curve_model.py) from all curves, for every sampler: the maximum over
configurations of the expected improvement over the best complete trial at the full budget. Optuna's terminators are not
used: they fit their process to complete trials only (RegretBoundEvaluator needs at least 20), of which a search with
early stopping has few, and they bound the regret, which is not a gain.
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
"""Trials that must have ended before the rule is evaluated; the number of TPE's random startup trials."""


class StopRule:
    """Evaluates `search.stop_when`; the result is kept in the storage."""

    def __init__(self, spec: StudySpec, study: optuna.Study, outbox: Outbox, limits: Limits) -> None:
        self._spec = spec
        self._study = study
        self._outbox = outbox
        self._limits = limits
        self._ended = study.user_attrs.get(ENOUGH)

    @property
    def reason(self) -> str | None:
        """Why the study has ended, if it has. A budget changed since then resumes the study."""
        if self._ended is None or self._ended["budget"] != self._limits.budget:
            return None
        return str(self._ended["reason"])

    def ends_before(self, number: int) -> bool:
        """Whether the study ends before trial `number` starts. False while interrupted or enqueued trials wait."""
        rule = self._spec.search.stop_when
        if rule is None or self._ended is not None:
            return False
        trials = self._study.get_trials(deepcopy=False)
        states = [trial.state for trial in trials]
        if TrialState.WAITING in states or sum(state.is_finished() for state in states) < MIN_ENDED:
            return False
        from proxytune.tuning.search.curve_sampler import CurveSampler  # imports scipy, which takes 0.5 s

        seed = int(np.random.SeedSequence([self._spec.search.sampler.seed, number, 1]).generate_state(1)[0])
        gain = CurveSampler(self._spec, seed).expected_gain(self._study)
        if gain is None or gain >= rule.expected_gain_below:
            return False
        reason = (
            f"the expected gain of {gain:.2g} is below {rule.expected_gain_below:g} after {number} trials"
        )
        self._ended = {"reason": reason, "budget": self._limits.budget}
        self._study.set_user_attr(ENOUGH, self._ended)
        self._outbox.append(Noted(text=f"the study ends because {reason}"))
        return True
