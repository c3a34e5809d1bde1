"""The samplers, Optuna's and our own, by the names of the study file, seeded so that a resumed study proposes what an unbroken one does."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.search.curve_sampler import CurveSampler
from proxytune.tuning.search.warm_start import WarmStartSampler
from proxytune.tuning.spec.study_spec import StudySpec

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
}


class Grid(optuna.samplers.GridSampler):
    """Optuna's grid without its end of the study: the budget ends ours, and `check` holds it to the grid's size."""

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        pass


def make_sampler(spec: StudySpec, number: int, earlier: Sequence[FrozenTrial] = ()) -> BaseSampler:
    """The study's sampler for the trial of this number; `earlier` trials of another study inform it (warm_start.py).

    Its random state comes from the study's seed and the number alone: it is the same in every process, and what
    the sampler has learnt is in the storage. One generator for the whole study would begin anew at each resume and
    propose its first trials a second time.
    """
    sampler = spec.search.sampler
    if sampler.name == "grid":
        choices = {key: list(domain.choice or ()) for key, domain in spec.search.space.items()}
        return Grid(choices, seed=sampler.seed)
    if sampler.name == "qmc":  # one sequence for the whole study: its position is in the storage
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.QMCSampler(
                scramble=True, seed=sampler.seed, warn_independent_sampling=False
            )
    seed = int(np.random.SeedSequence([sampler.seed, number]).generate_state(1)[0])
    made = CurveSampler(spec, seed) if sampler.name == "curve" else SAMPLERS[sampler.name](seed)
    return WarmStartSampler(made, earlier) if earlier else made
