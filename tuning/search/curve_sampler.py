"""The `curve` sampler: maximises expected improvement at the full budget, modelled from all learning curves.

The model of curve_model.py predicts the value of a configuration at the full budget, from the curves of stopped trials
too. The sampler maximises the expected improvement EI(x) = E max(0, f(x) - f*) (Jones et al. 1998), where f* is the best
prediction among the started configurations, divided by a power of the training time: EI(x) / c(x)^COST (Snoek et al.
2012; Lee et al. 2020, arXiv 2003.10870, for exponents below 1). ln c is linear in x and fitted to ended trials. With
constraints, EI is multiplied by the probability of feasibility (Gardner et al. 2014), with one process per constraint.
Running trials count as if they had reached their predicted values. Values are transformed to
z = -ln(gap / spread + SOFTEN), where gap is the distance to the best value seen at any step and spread is the median
gap: differences between good configurations are expanded, differences between bad configurations are compressed.

All state is in the storage: the trials, and the hyperparameters of the last fit as a study attribute. Another process
therefore proposes the same configuration. The hyperparameters are fitted again whenever the number of observations has
grown by the factor GROWTH.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr

from proxytune.tuning.search.curve_model import Array, CurveModel, Observations, fit, prior
from proxytune.tuning.search.encoding import Encoding
from proxytune.tuning.spec.metrics import bounds_of
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import CURVE_MODEL, END

NUM_STARTUP = 5  # trials with a value before the model is used; random sampling until then
MAX_OBSERVATIONS = 300  # in the model
MAX_FIT = 160  # observations in a hyperparameter fit
GROWTH = 1.2
THINNING = (
    3.0  # kept of a curve: the last report, the last report at a third of its step or earlier, and so on
)
SOFTEN = 0.1
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
        self._full = int(spec.training["steps"])
        self._space = spec.space
        fixed = {f"model.{key}": value for key, value in spec.model.items()}
        fixed |= {f"training.{key}": value for key, value in spec.training.items()}
        self._encoding = Encoding(spec.space, fixed)
        self._random = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._space.distributions)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        others = [other for other in study.get_trials(deepcopy=False) if _is_begun(other, trial.number)]
        fitted = self._fit(study, others)
        return {} if fitted is None else self._encoding.decode(self._best(fitted[0]))

    def expected_gain(self, study: optuna.Study) -> float | None:
        """Largest expected gain of an untried configuration over the best complete trial.

        In the objective's unit, at the full budget, multiplied by the probability of feasibility. The maximum is over
        random configurations and configurations near the best trials. None: no feasible trial is complete, or too few
        trials have a value.
        """
        trials = [other for other in study.get_trials(deepcopy=False) if _is_begun(other)]
        known = [other for other in trials if other.state == TrialState.COMPLETE and other.value is not None]
        known = [other for other in known if all(excess <= 0 for excess in other.constraints.values())]
        fitted = self._fit(study, trials)
        if fitted is None or not known:
            return None
        acquisition, scale = fitted
        mean, deviation, feasible = acquisition.predict(self._candidates(acquisition))
        nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
        values = np.minimum(scale.value(mean[:, None] + deviation[:, None] * nodes), self._highest)
        best = max(self._direction * float(other.value or 0.0) for other in known)
        gains = np.maximum(values - best, 0.0) @ weights / weights.sum() * feasible
        return float(gains.max())

    def _fit(
        self, study: optuna.Study, trials: Sequence[FrozenTrial]
    ) -> "tuple[_Acquisition, _Scale] | None":
        """The acquisition function given the started trials; None if too few of them have a value."""
        curves = [_curve(other, self._full) for other in trials]
        if sum(map(bool, curves)) < NUM_STARTUP:
            return None
        points = np.array([self._encoding.encode(other.params) for other in trials])
        seen, scale = self._observations(points, curves)
        model = CurveModel(self._hyperparameters(study, CURVE_MODEL, seen), seen)
        running = [index for index, other in enumerate(trials) if other.state == TrialState.RUNNING]
        if running:
            model = model.with_predictions(points[running])
        constraints = self._constraints(study, points, trials)
        return _Acquisition(model, constraints, _cost(trials, points), points), scale

    def _observations(
        self, points: Array, curves: Sequence[Mapping[int, float]]
    ) -> "tuple[Observations, _Scale]":
        """Observations of all curves, thinned and standardised; at most MAX_OBSERVATIONS of them."""
        rows = [
            (index, step, value, position == 0)
            for index, curve in enumerate(curves)
            for position, (step, value) in enumerate(_thinned(curve))
        ]
        trial = np.array([row[0] for row in rows])
        s = np.log(np.array([row[1] for row in rows]) / self._full)
        values = self._direction * np.array([row[2] for row in rows])
        finite = np.isfinite(values)
        values = np.where(finite, values, values[finite].min() if finite.any() else 0.0)
        gap = values.max() - values
        spread = np.median(gap) + 1e-9
        z = -np.log(gap / spread + SOFTEN)
        scale = _Scale(values.max(), spread, z.mean(), z.std() + 1e-9)
        seen = Observations(points[trial], s, (z - scale.mean) / scale.deviation)
        if len(rows) <= MAX_OBSERVATIONS:
            return seen, scale
        last = np.array([row[3] for row in rows])
        worth = s / math.log(self._full) + 0.5 * last + 0.2 * seen.y  # prefers late, last and good reports
        return seen.take(np.sort(np.argsort(-worth, kind="stable")[:MAX_OBSERVATIONS])), scale

    def _hyperparameters(self, study: optuna.Study, name: str, seen: Observations) -> Array:
        """The study's hyperparameters, fitted again if the number of observations has grown by GROWTH."""
        stored = study.user_attrs.get(name)
        number, theta = (0, prior(seen.x.shape[1])[0]) if stored is None else (stored[0], np.array(stored[1]))
        if len(seen.y) < GROWTH * number:
            return theta
        few = seen
        if len(seen.y) > MAX_FIT:
            few = seen.take(np.sort(np.random.default_rng(len(seen.y)).permutation(len(seen.y))[:MAX_FIT]))
        theta = fit(few, theta)
        study.set_user_attr(name, [len(seen.y), theta.tolist()])
        return theta

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
            theta = self._hyperparameters(study, f"{CURVE_MODEL}:{name}", seen)
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


@dataclass(frozen=True)
class _Scale:
    """The transform between values and the model's standardised z = -ln(gap / spread + SOFTEN)."""

    best: float
    spread: float
    mean: float
    deviation: float

    def value(self, standardised: Array) -> Array:
        """The value, signed so that higher is better; at most SOFTEN spreads above the best value seen."""
        z = np.asarray(standardised) * self.deviation + self.mean
        return np.asarray(self.best - self.spread * (np.exp(-z) - SOFTEN))


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


def _is_begun(other: FrozenTrial, asked: int | None = None) -> bool:
    """Whether a trial has parameters and was started; `asked` is the number of the trial being proposed."""
    return bool(other.params) and other.state != TrialState.WAITING and other.number != asked


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
