"""The learning curves of a study's trials as observations of the curve model (curve_model.py).

Values are transformed to z = -ln(gap / spread + SOFTEN), where gap is the distance to the best value seen at any step
and spread is the median gap: differences between good configurations are expanded, differences between bad
configurations are compressed.

All state is in the storage: the trials, and the hyperparameters of the last fit as a study attribute. Another process
therefore has the same model. The hyperparameters are fitted again whenever the number of observations has grown by the
factor GROWTH.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.search.curve_model import Array, CurveModel, Observations, fit, prior
from proxytune.tuning.search.encoding import Encoding
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import CURVE_MODEL, END

NUM_STARTUP = 5  # trials with a value before the model is used
MAX_OBSERVATIONS = 300  # in the model
MAX_FIT = 160  # observations in a hyperparameter fit
GROWTH = 1.2
THINNING = (
    3.0  # kept of a curve: the last report, the last report at a third of its step or earlier, and so on
)
SOFTEN = 0.1


@dataclass(frozen=True)
class Scale:
    """The transform between values and the model's standardised z = -ln(gap / spread + SOFTEN)."""

    best: float
    spread: float
    mean: float
    deviation: float

    def value(self, standardised: Array) -> Array:
        """The value, signed so that higher is better; at most SOFTEN spreads above the best value seen."""
        z = np.asarray(standardised) * self.deviation + self.mean
        return np.asarray(self.best - self.spread * (np.exp(-z) - SOFTEN))


@dataclass(frozen=True)
class CurveHistory:
    """The started trials of a single-objective study and the model that has learnt from their curves.

    Attributes:
        trials: the trials.
        points: their configurations as points of the unit cube, a row per trial.
        model: predicts the standardised value of a point at the full budget.
        scale: from standardised values to the objective's.
    """

    trials: Sequence[FrozenTrial]
    points: Array
    model: CurveModel
    scale: Scale

    @classmethod
    def read(
        cls, spec: StudySpec, study: optuna.Study, encoding: Encoding, asked: int | None = None
    ) -> "CurveHistory | None":
        """From the storage, without the trial number `asked`. None: fewer than NUM_STARTUP trials have a value."""
        trials = [
            other
            for other in study.get_trials(deepcopy=False)
            if other.params and other.state != TrialState.WAITING and other.number != asked
        ]
        full = int(spec.training["steps"])
        curves = [_curve(other, full) for other in trials]
        if sum(map(bool, curves)) < NUM_STARTUP:
            return None
        points = np.array([encoding.encode(other.params) for other in trials])
        direction = 1.0 if "maximize" in spec.search.objectives.values() else -1.0
        seen, scale = _observations(points, curves, full, direction)
        return cls(trials, points, CurveModel(hyperparameters(study, CURVE_MODEL, seen), seen), scale)

    @property
    def complete(self) -> list[int]:
        """The rows of the complete trials that satisfy all constraints."""
        return [
            row
            for row, trial in enumerate(self.trials)
            if trial.state == TrialState.COMPLETE and trial.value is not None and is_feasible(trial)
        ]


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether no constraint that is known of the trial is violated."""
    return all(excess <= 0 for excess in trial.constraints.values())


def hyperparameters(study: optuna.Study, name: str, seen: Observations) -> Array:
    """The study's hyperparameters, fitted again if the number of observations has grown by GROWTH."""
    stored = study.user_attrs.get(name)
    mean = prior(seen.x.shape[1])[0]
    if stored is None or len(stored[1]) != len(mean):  # none yet, or of a version with another model
        number, theta = 0, mean
    else:
        number, theta = stored[0], np.array(stored[1])
    if len(seen.y) < GROWTH * number:
        return theta
    few = seen
    if len(seen.y) > MAX_FIT:
        few = seen.take(np.sort(np.random.default_rng(len(seen.y)).permutation(len(seen.y))[:MAX_FIT]))
    theta = fit(few, theta)
    study.set_user_attr(name, [len(seen.y), theta.tolist()])
    return theta


def _observations(
    points: Array, curves: Sequence[Mapping[int, float]], full: int, direction: float
) -> tuple[Observations, Scale]:
    """Observations of all curves, thinned and standardised; at most MAX_OBSERVATIONS of them."""
    rows = [
        (index, step, value, position == 0)
        for index, curve in enumerate(curves)
        for position, (step, value) in enumerate(_thinned(curve))
    ]
    trial = np.array([row[0] for row in rows])
    s = np.log(np.array([row[1] for row in rows]) / full)
    values = direction * np.array([row[2] for row in rows])
    finite = np.isfinite(values)
    values = np.where(finite, values, values[finite].min() if finite.any() else 0.0)
    gap = values.max() - values
    spread = np.median(gap) + 1e-9
    z = -np.log(gap / spread + SOFTEN)
    scale = Scale(values.max(), spread, z.mean(), z.std() + 1e-9)
    seen = Observations(points[trial], s, (z - scale.mean) / scale.deviation)
    if len(rows) <= MAX_OBSERVATIONS:
        return seen, scale
    last = np.array([row[3] for row in rows])
    worth = s / math.log(full) + 0.5 * last + 0.2 * seen.y  # prefers late, last and good reports
    return seen.take(np.sort(np.argsort(-worth, kind="stable")[:MAX_OBSERVATIONS])), scale


def _curve(trial: FrozenTrial, full: int) -> dict[int, float]:
    """Reported values by step; NaN at the full budget if the trial diverged."""
    curve = dict(trial.intermediate_values)
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        curve[full] = trial.value
    if trial.user_attrs.get(END, {}).get("outcome") == "diverged":
        curve[full] = math.nan
    return {step: value for step, value in curve.items() if step > 0}


def _thinned(curve: Mapping[int, float]) -> list[tuple[int, float]]:
    """The last report, the last report at a third of its step or earlier, and so on."""
    kept: list[tuple[int, float]] = []
    for step in sorted(curve, reverse=True):
        if not kept or step <= kept[-1][0] / THINNING:
            kept.append((step, curve[step]))
    return kept
