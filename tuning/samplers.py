"""Optuna's samplers by the names of the study file, seeded so that a resumed study proposes what an unbroken one does."""

from collections.abc import Callable

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from proxytune.tuning.spec import StudySpec

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
}


def make_sampler(spec: StudySpec, number: int) -> BaseSampler:
    """The study's sampler for the trial of this number.

    Its random state comes from the study's seed and the number alone: it is the same in every process, and what
    the sampler has learnt is in the storage. One generator for the whole study would begin anew at each resume and
    propose its first trials a second time.
    """
    sampler = spec.search.sampler
    seed = np.random.SeedSequence([sampler.seed, number]).generate_state(1)[0]
    return SAMPLERS[sampler.name](int(seed))
