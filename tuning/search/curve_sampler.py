"""The `curve` sampler: maximises expected improvement at the full budget, modelled from all learning curves.

The model of curve_model.py predicts the value of a configuration at the full budget, from the curves of stopped trials
too. The sampler maximises the expected improvement EI(x) = E max(0, f(x) - f*) (Jones et al. 1998), where f* is the best
prediction among the started configurations, divided by a power of the training time: EI(x) / c(x)^COST (Snoek et al.
2012; Lee et al. 2020, arXiv 2003.10870, for exponents below 1). ln c is linear in x and fitted to ended trials. With
constraints, EI is multiplied by the probability of feasibility (Gardner et al. 2014), with one process per constraint.
Running trials count as if they had reached their predicted values. Until NUM_STARTUP trials have a value, configurations
are random. All state is in the storage (curve_history.py): another process proposes the same configuration.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr

from proxytune.tuning.search.curve_history import (
    MAX_OBSERVATIONS,
    CurveHistory,
    hyperparameters,
)
from proxytune.tuning.search.curve_model import Array, CurveModel, Observations
from proxytune.tuning.search.encoding import Encoding
from proxytune.tuning.spec.metrics import bounds_of
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import CURVE_MODEL, END

COST = 0.5
RIDGE = 0.3  # in the regression of the training time
NUM_RANDOM, NUM_NEAR, NUM_REFINED = 300, 100, 200
NUM_NODES = 15  # of the quadrature for an expected gain
NEAR = (0.2, 0.05, 0.01)  # standard deviations of candidates around the best configurations, in the unit cube
NUM_BEST = 10
TWIN = 1e-4  # squared distance below which a configuration counts as already tried


class CurveSampler(BaseSampler):
    """Proposes configurations for a single-objective study."""

    def __init__(self, spec: StudySpec, seed: int) -> None:
        self._direction = 1.0 if "maximize" in spec.search.objectives.values() else -1.0
        (objective,) = spec.search.objectives
        self._highest = max(self._direction * bound for bound in bounds_of(objective))
        self._spec = spec
        self._encoding = Encoding(spec.space, spec.fixed)
        self._random = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._spec.space.distributions)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        history = CurveHistory.read(self._spec, study, self._encoding, trial.number)
        return {} if history is None else self._encoding.decode(self._best(self._acquisition(study, history)))

    def expected_gain(self, study: optuna.Study) -> float | None:
        """Largest expected gain of an untried configuration over the best complete trial.

        In the objective's unit, at the full budget, multiplied by the probability of feasibility. The maximum is over
        random configurations and configurations near the best trials. None: no feasible trial is complete, or too few
        trials have a value.
        """
        history = CurveHistory.read(self._spec, study, self._encoding)
        known = [] if history is None else [history.trials[index] for index in history.complete]
        if history is None or not known:
            return None
        acquisition = self._acquisition(study, history)
        mean, deviation, feasible = acquisition.predict(self._candidates(acquisition))
        nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
        values = np.minimum(history.scale.value(mean[:, None] + deviation[:, None] * nodes), self._highest)
        best = max(self._direction * float(other.value or 0.0) for other in known)
        gains = np.maximum(values - best, 0.0) @ weights / weights.sum() * feasible
        return float(gains.max())

    def _acquisition(self, study: optuna.Study, history: CurveHistory) -> "_Acquisition":
        """The acquisition function given the started trials."""
        model, points = history.model, history.points
        running = [index for index, other in enumerate(history.trials) if other.state == TrialState.RUNNING]
        if running:
            model = model.with_predictions(points[running])
        constraints = self._constraints(study, points, history.trials)
        return _Acquisition(model, constraints, _cost(history.trials, points), points)

    def _constraints(
        self, study: optuna.Study, points: Array, trials: Sequence[FrozenTrial]
    ) -> list[tuple[CurveModel, float]]:
        """For each constraint, the process of its excess and the limit of feasibility on its standardised scale."""
        models = []
        for name in sorted({key for other in trials for key in other.constraints}):
            known = [index for index, other in enumerate(trials) if name in other.constraints]
            excess = np.array([trials[index].constraints[name] for index in known[-MAX_OBSERVATIONS:]])
            excess = np.arcsinh(excess / (np.median(np.abs(excess)) + 1e-9))
            scale = excess.std() + 1e-9
            x = points[known[-MAX_OBSERVATIONS:]]
            seen = Observations(x, np.zeros(len(x)), (excess - excess.mean()) / scale)
            theta = hyperparameters(study, f"{CURVE_MODEL}:{name}", seen)
            models.append((CurveModel(theta, seen), float(-excess.mean() / scale)))
        return models

    def _best(self, acquisition: "_Acquisition") -> Array:
        """The best candidate, refined among points near it."""
        chosen = acquisition.choose(self._candidates(acquisition))
        widths = self._random.choice(np.array(NEAR) / 2, size=(NUM_REFINED, 1))
        near = self._around(np.repeat(chosen[None], NUM_REFINED, axis=0), widths)
        return acquisition.choose(self._encoding.snap(np.concatenate([chosen[None], near])))

    def _candidates(self, acquisition: "_Acquisition") -> Array:
        """Random configurations and configurations near the best trials."""
        candidates = [self._random.random((NUM_RANDOM, self._encoding.size))]
        for width in NEAR:
            centres = acquisition.points[self._random.choice(acquisition.best, NUM_NEAR)]
            candidates.append(self._around(centres, np.full((NUM_NEAR, 1), width)))
        return self._encoding.snap(np.concatenate(candidates))

    def _around(self, centres: Array, widths: Array) -> Array:
        """Points displaced by a normal step in about half of their coordinates."""
        moved = self._random.random(centres.shape) < 0.5
        return np.asarray(np.clip(centres + self._random.normal(size=centres.shape) * widths * moved, 0, 1))


class _Acquisition:
    """The acquisition function: expected improvement per cost, weighted by the probability of feasibility."""

    def __init__(
        self,
        model: CurveModel,
        constraints: Sequence[tuple[CurveModel, float]],
        cost: Array,
        points: Array,
    ) -> None:
        """`cost` holds the coefficients of ln c; `points` are the started configurations."""
        self.points = points
        self._model, self._constraints, self._cost = model, constraints, cost
        predicted = model.mean(points)
        feasible = self._feasible(points)
        likely = feasible >= 0.5
        self._incumbent = float(predicted[likely].max() if likely.any() else predicted.min())
        self.best = np.argsort(np.where(likely, -predicted, 1e9 - feasible), kind="stable")[:NUM_BEST]

    def predict(self, candidates: Array) -> tuple[Array, Array, Array]:
        """Posterior mean and standard deviation, and the probability that all constraints hold."""
        return *self._model.final(candidates), self._feasible(candidates)

    def choose(self, candidates: Array) -> Array:
        """The candidate of largest gain; untried and probably feasible (>= 0.5) candidates take precedence."""
        feasible = self._feasible(candidates)
        gain = expected_improvement(*self._model.final(candidates), self._incumbent) * feasible
        gain /= np.exp(COST * (candidates @ self._cost))
        squares = (candidates**2).sum(axis=1)[:, None] + (self.points**2).sum(axis=1)
        tried = (squares - 2 * candidates @ self.points.T).min(axis=1) < TWIN
        order = np.lexsort((-gain, feasible < 0.5, tried))
        return np.asarray(candidates[order[0]])

    def _feasible(self, points: Array) -> NDArray[np.float64]:
        """The probability that all constraints hold."""
        probability = np.ones(len(points))
        for model, limit in self._constraints:
            mean, deviation = model.final(points)
            probability *= ndtr((limit - mean) / deviation)
        return probability


def expected_improvement(mean: Array, deviation: Array, incumbent: float) -> Array:
    """E max(0, f - incumbent) for normally distributed f."""
    z = (mean - incumbent) / deviation
    return np.asarray(deviation * (z * ndtr(z) + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)))


def _cost(trials: Sequence[FrozenTrial], points: Array) -> Array:
    """Coefficients of ln c(x) without its constant, by ridge regression; zeros if no trial has ended."""
    ends = [trial.user_attrs.get(END, {"step": 0, "metrics": {}}) for trial in trials]
    rates = np.array([end["metrics"].get("seconds", 0.0) / max(1, end["step"]) for end in ends])
    x, y = points[rates > 0], np.log(rates[rates > 0])
    if len(y) == 0:
        return np.zeros(points.shape[1])
    x = x - x.mean(axis=0)
    return np.asarray(np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - y.mean())))
