"""The `curve` sampler: the greatest expected improvement at the full budget, learnt from all curves, stopped ones too.

The model of curve_model.py predicts what a configuration reaches at the full budget. The next one maximises the
expected improvement EI(x) = E max(0, f(x) - f*) (Jones et al. 1998), where f* is the best prediction among the
configurations that were begun, for the square root of the time that the training takes: EI(x) / c(x)^COST (Snoek et al.
2012; Lee et al. 2020, arXiv 2003.10870, for exponents below 1), with ln c linear in x, from the trials that ended. With
constraints it is multiplied by the probability that they hold (Gardner et al. 2014), each learnt by a process of its
own. Trials that run count as if they had already reached what is predicted for them. Values are compared as z = -ln(gap / spread + SOFTEN), with gap the distance to the best value seen at any step
and spread that of the median: differences between good configurations count, those between bad ones hardly do.

The storage holds all that it knows: the trials, and the hyperparameters since the last fit as an attribute of the
study, so another process proposes the same. A fit comes each time that there are GROWTH times as many observations.
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

NUM_STARTUP = 5  # trials with a value before the model proposes; until then at random
MAX_OBSERVATIONS = 300  # of the model
MAX_FIT = 160  # of a fit of its hyperparameters
GROWTH = 1.2
THINNING = 3.0  # of a curve the last report counts, the last one at a third of its step, and so on
SOFTEN = 0.1
COST = 0.5
RIDGE = 0.3  # of the regression of the time
NUM_RANDOM, NUM_NEAR, NUM_REFINED = 300, 100, 200
NUM_NODES = 15  # of the quadrature of an expected gain
NEAR = (0.2, 0.05, 0.01)  # how far candidates lie from the best configurations, in the unit cube
NUM_BEST = 10
TWIN = 1e-4  # squared distance within which a configuration counts as tried


class CurveSampler(BaseSampler):
    """Proposes the configurations of one study with one objective."""

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
        learnt = self._learn(study, others)
        return {} if learnt is None else self._encoding.decode(self._best(learnt[0]))

    def expected_gain(self, study: optuna.Study) -> float | None:
        """By how much the best configuration that is not tried is expected to exceed the best complete trial.

        In the objective's unit, at the full budget, times the probability that its constraints hold; the best is the
        one of greatest gain among random configurations and some near the best ones. None: nothing is complete yet,
        or too few have a value.
        """
        trials = [other for other in study.get_trials(deepcopy=False) if _is_begun(other)]
        known = [other for other in trials if other.state == TrialState.COMPLETE and other.value is not None]
        known = [other for other in known if all(excess <= 0 for excess in other.constraints.values())]
        learnt = self._learn(study, trials)
        if learnt is None or not known:
            return None
        judge, scale = learnt
        mean, deviation, feasible = judge.predict(self._candidates(judge))
        nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
        values = np.minimum(scale.value(mean[:, None] + deviation[:, None] * nodes), self._highest)
        best = max(self._direction * float(other.value or 0.0) for other in known)
        gains = np.maximum(values - best, 0.0) @ weights / weights.sum() * feasible
        return float(gains.max())

    def _learn(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> "tuple[_Judge, _Scale] | None":
        """What trials that were begun say of all others; None where too few have a value."""
        curves = [_curve(other, self._full) for other in trials]
        if sum(map(bool, curves)) < NUM_STARTUP:
            return None
        points = np.array([self._encoding.encode(other.params) for other in trials])
        seen, scale = self._observations(points, curves)
        model = CurveModel(self._hyperparameters(study, CURVE_MODEL, seen), seen)
        running = [index for index, other in enumerate(trials) if other.state == TrialState.RUNNING]
        if running:
            model = model.believing(points[running])
        constraints = self._constraints(study, points, trials)
        return _Judge(model, constraints, _cost(trials, points), points), scale

    def _observations(
        self, points: Array, curves: Sequence[Mapping[int, float]]
    ) -> "tuple[Observations, _Scale]":
        """All curves, thinned and on the scale of the model; at most MAX_OBSERVATIONS of them."""
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
        worth = s / math.log(self._full) + 0.5 * last + 0.2 * seen.y  # late, last of its trial, good
        return seen.take(np.sort(np.argsort(-worth, kind="stable")[:MAX_OBSERVATIONS])), scale

    def _hyperparameters(self, study: optuna.Study, name: str, seen: Observations) -> Array:
        """Those of the study, fitted again where enough has been observed since."""
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
        """For each constraint the process of its excess, and where on its scale feasible ends."""
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

    def _best(self, judge: "_Judge") -> Array:
        """The best of the candidates, then of some near that one."""
        chosen = judge.choose(self._candidates(judge))
        widths = self._random.choice(np.array(NEAR) / 2, size=(NUM_REFINED, 1))
        near = self._around(np.repeat(chosen[None], NUM_REFINED, axis=0), widths)
        return judge.choose(self._encoding.snap(np.concatenate([chosen[None], near])))

    def _candidates(self, judge: "_Judge") -> Array:
        """Random configurations, and some near the best ones."""
        candidates = [self._random.random((NUM_RANDOM, self._encoding.size))]
        for width in NEAR:
            centres = judge.points[self._random.choice(judge.best, NUM_NEAR)]
            candidates.append(self._around(centres, np.full((NUM_NEAR, 1), width)))
        return self._encoding.snap(np.concatenate(candidates))

    def _around(self, centres: Array, widths: Array) -> Array:
        """Points moved by a normal step in about half of their coordinates."""
        moved = self._random.random(centres.shape) < 0.5
        return np.asarray(np.clip(centres + self._random.normal(size=centres.shape) * widths * moved, 0, 1))


@dataclass(frozen=True)
class _Scale:
    """From values to what the model sees, standardised z = -ln(gap / spread + SOFTEN), and back."""

    best: float
    spread: float
    mean: float
    deviation: float

    def value(self, standardised: Array) -> Array:
        """The value, in the direction that is maximised; at most SOFTEN spreads above the best one seen."""
        z = np.asarray(standardised) * self.deviation + self.mean
        return np.asarray(self.best - self.spread * (np.exp(-z) - SOFTEN))


class _Judge:
    """What makes one candidate better than another."""

    def __init__(
        self,
        model: CurveModel,
        constraints: Sequence[tuple[CurveModel, float]],
        cost: Array,
        points: Array,
    ) -> None:
        """`cost` holds the coefficients of ln c; `points` are the configurations that were begun."""
        self.points = points
        self._model, self._constraints, self._cost = model, constraints, cost
        predicted = model.mean(points)
        feasible = self._feasible(points)
        likely = feasible >= 0.5
        self._incumbent = float(predicted[likely].max() if likely.any() else predicted.min())
        self.best = np.argsort(np.where(likely, -predicted, 1e9 - feasible), kind="stable")[:NUM_BEST]

    def predict(self, candidates: Array) -> tuple[Array, Array, Array]:
        """Mean and standard deviation of the model, and the probability that all constraints hold."""
        return *self._model.final(candidates), self._feasible(candidates)

    def choose(self, candidates: Array) -> Array:
        """The candidate of greatest gain: none that was tried, and one that more likely keeps the constraints than not if there is any."""
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
    """E max(0, f - incumbent) of normal f."""
    z = (mean - incumbent) / deviation
    return np.asarray(deviation * (z * ndtr(z) + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)))


def _cost(trials: Sequence[FrozenTrial], points: Array) -> Array:
    """The coefficients of ln c(x), up to its constant, by ridge regression; zeros where no trial has ended."""
    ends = [trial.user_attrs.get(END, {"step": 0, "metrics": {}}) for trial in trials]
    rates = np.array([end["metrics"].get("seconds", 0.0) / max(1, end["step"]) for end in ends])
    x, y = points[rates > 0], np.log(rates[rates > 0])
    if len(y) == 0:
        return np.zeros(points.shape[1])
    x = x - x.mean(axis=0)
    return np.asarray(np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - y.mean())))


def _is_begun(other: FrozenTrial, asked: int | None = None) -> bool:
    """Whether a trial has its configuration and was begun; `asked` is the number of the one that is proposed."""
    return bool(other.params) and other.state != TrialState.WAITING and other.number != asked


def _curve(trial: FrozenTrial, full: int) -> dict[int, float]:
    """The values that a trial reported by step; NaN at the full budget for one that diverged."""
    curve = dict(trial.intermediate_values)
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        curve[full] = trial.value
    if trial.user_attrs.get(END, {}).get("outcome") == "diverged":
        curve[full] = math.nan
    return {step: value for step, value in curve.items() if step > 0}


def _thinned(curve: Mapping[int, float]) -> list[tuple[int, float]]:
    """The last report, the last one at a third of its step, and so on."""
    kept: list[tuple[int, float]] = []
    for step in sorted(curve, reverse=True):
        if not kept or step <= kept[-1][0] / THINNING:
            kept.append((step, curve[step]))
    return kept
