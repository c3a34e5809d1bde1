"""The samplers by their names in the study file, seeded so that a resumed study proposes the same trials."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from proxytune.tuning.search.warm_start import WarmStartSampler
from proxytune.tuning.spec.space import Scalar
from proxytune.tuning.spec.study_spec import StudySpec

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
}


class Grid(optuna.samplers.RandomSampler):
    """The points of a grid in their order; conditional keys are left out where they do not exist, as Optuna's cannot."""

    def __init__(self, spec: StudySpec) -> None:
        super().__init__(seed=spec.search.sampler.seed)
        self._space = spec.space
        self._points = spec.space.grid(spec.fixed)
        self._next: dict[str, Scalar] = {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Those of the first point that no trial has; beyond the grid (an extended budget) it begins anew."""
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        taken = [other.params or other.system_attrs.get("fixed_params") for other in others]
        left = [point for point in self._points if point not in taken]
        self._next = left[0] if left else self._points[trial.number % len(self._points)]
        return {key: self._space.distributions[key] for key in self._next}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Scalar]:
        """That point."""
        return self._next


def make_sampler(spec: StudySpec, number: int, earlier: Sequence[FrozenTrial] = ()) -> BaseSampler:
    """The study's sampler for the trial of this number; `earlier` trials of another study inform it (warm_start.py).

    Its random state comes from the study's seed and the number alone: it is the same in every process, and what
    the sampler has learnt is in the storage. One generator for the whole study would begin anew at each resume and
    propose its first trials a second time.
    """
    sampler = spec.search.sampler
    if sampler.name == "grid":
        return Grid(spec)
    if sampler.name == "qmc":  # one sequence for the whole study: its position is in the storage
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.QMCSampler(
                scramble=True, seed=sampler.seed, warn_independent_sampling=False
            )
    seed = int(np.random.SeedSequence([sampler.seed, number]).generate_state(1)[0])
    made: BaseSampler
    if sampler.name == "curve":
        from proxytune.tuning.search.curve_sampler import CurveSampler  # it imports scipy: 0.5 s of a start

        made = CurveSampler(spec, seed)
    else:
        made = SAMPLERS[sampler.name](seed)
    return WarmStartSampler(made, earlier) if earlier else made
