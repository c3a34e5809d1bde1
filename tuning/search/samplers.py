"""Samplers by their names in the study file, seeded so that a resumed study proposes the same trials."""

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
    """The points of a grid in order. Unlike Optuna's GridSampler, it omits conditional keys that are inactive."""

    def __init__(self, spec: StudySpec) -> None:
        super().__init__(seed=spec.search.sampler.seed)
        self._space = spec.space
        self._points = spec.space.grid(spec.fixed)
        self._next: dict[str, Scalar] = {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The keys of the first point that no trial has; after the last point (extended budget) the grid repeats."""
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        taken = [other.params or other.system_attrs.get("fixed_params") for other in others]
        left = [point for point in self._points if point not in taken]
        self._next = left[0] if left else self._points[trial.number % len(self._points)]
        return {key: self._space.distributions[key] for key in self._next}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Scalar]:
        """The point chosen by `infer_relative_search_space`."""
        return self._next


def make_sampler(spec: StudySpec, number: int, earlier: Sequence[FrozenTrial] = ()) -> BaseSampler:
    """The study's sampler for trial `number`; `earlier` trials of another study inform it (warm_start.py).

    The random state depends only on the study's seed and the trial's number, so it is the same in every process; all
    other state is in the storage. A single generator for the whole study would restart at each resume and propose its
    first trials again.
    """
    sampler = spec.search.sampler
    if sampler.name == "grid":
        return Grid(spec)
    if sampler.name == "qmc":  # one sequence for the whole study; its position is in the storage
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.QMCSampler(
                scramble=True, seed=sampler.seed, warn_independent_sampling=False
            )
    seed = int(np.random.SeedSequence([sampler.seed, number]).generate_state(1)[0])
    made: BaseSampler
    if sampler.name == "curve":
        from proxytune.tuning.search.curve_sampler import CurveSampler  # importing scipy takes 0.5 s

        made = CurveSampler(spec, seed)
    else:
        made = SAMPLERS[sampler.name](seed)
    return WarmStartSampler(made, earlier) if earlier else made
