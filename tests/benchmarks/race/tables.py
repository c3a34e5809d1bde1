"""Tasks of a race: tables of training curves, so that no model is trained.

A task returns the values of a configuration at each step, and the seconds until then. Values are maximised. `best` is
the highest known full-budget value, `worst` that of a poor configuration, which defines the regret of a search without
any result.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from proxytune.tuning.journal.bank import open_banked
from proxytune.tuning.plan import workers
from proxytune.tuning.plan.workers import Ending
from proxytune.tuning.report.history import TrialHistory, read_history
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.space import Domain
from proxytune.tuning.spec.study_spec import INTEGER_KEYS, StudySpec, parse_study
from proxytune.tuning.studies import BANK, banked_studies


class Curve(workers.Curve, Protocol):
    """One training in a table."""

    complete: bool  # whether it reaches the full budget


class Task(Protocol):
    """A table of training curves over one space."""

    name: str
    domains: Mapping[str, Domain]
    integers: frozenset[str]
    steps: tuple[int, ...]  # of the reports of a full training
    rungs: tuple[int, int]  # the lowest rung's step, and the reduction factor
    best: float
    worst: float
    training_seconds: float  # of a full training, mean over configurations

    def curve(self, params: Mapping[str, Any]) -> Curve:
        """The training of a configuration."""


@dataclass(frozen=True)
class Recorded:
    """A fully known curve."""

    values: tuple[float, ...]
    times: tuple[float, ...]
    complete: bool = True

    def value(self, report: int) -> float:
        return self.values[report]

    def seconds(self, report: int) -> float:
        return self.times[report]

    def ending(self, report: int) -> Ending:
        if report < len(self.values) - 1:
            return "running"
        return "complete" if self.complete else "diverged"


class RecordedTask:
    """A study of the curve bank; a configuration has the curve of the nearest recorded configuration.

    Nearest: the same choices, then the smallest distance with ranges scaled to [0, 1] (logarithmic as in the space).
    """

    def __init__(self, spec: StudySpec, trials: Iterable[TrialHistory]) -> None:
        """`trials` were all trained to the end or diverged."""
        self.name = spec.name
        self.domains: Mapping[str, Domain] = spec.search.space
        self.integers = INTEGER_KEYS & self.domains.keys()
        self.rungs = (int(spec.training["eval_every"]), 3)
        kept = [trial for trial in trials if trial.outcome in (Outcome.COMPLETE, Outcome.DIVERGED)]
        self.configurations = [trial.params for trial in kept]
        self.curves = [
            Recorded(
                values=tuple(value for _, value in trial.curves["val_accuracy"]),
                times=tuple(seconds for _, seconds in trial.curves["seconds"]),
                complete=trial.outcome is Outcome.COMPLETE,
            )
            for trial in kept
        ]
        self._points = np.array([self._point(params) for params in self.configurations])
        whole = [curve for curve in self.curves if curve.complete]
        self.steps = max((tuple(step for step, _ in trial.curves["seconds"]) for trial in kept), key=len)
        self.best, self.worst = (pick(curve.values[-1] for curve in whole) for pick in (max, min))
        self.training_seconds = float(np.mean([curve.times[-1] for curve in whole]))

    def curve(self, params: Mapping[str, Any]) -> Recorded:
        distances = np.abs(self._points - self._point(params))
        choices = [domain.choice is not None for domain in self.domains.values()]
        distances[:, choices] = 10.0 * (distances[:, choices] > 0)
        return self.curves[int(np.argmin((distances**2).sum(axis=1)))]

    def _point(self, params: Mapping[str, Any]) -> list[float]:
        return [
            float(domain.choice.index(params[key]))
            if domain.choice is not None
            else unit(domain, params[key])
            for key, domain in self.domains.items()
        ]


def recorded_tasks(folder: Path = BANK) -> list[RecordedTask]:
    """The studies of the curve bank, or of another folder of its files, whose trials were all trained to the end."""
    tasks = []
    for path in banked_studies(folder).values():
        with open_banked(path) as outbox:
            history = read_history(outbox)
        spec = parse_study(history.spec, where=str(path))
        if (spec.search.sampler.name, spec.search.stopping.name) == ("random", "none"):
            tasks.append(RecordedTask(spec, history.trials.values()))
    return tasks


def unit(domain: Domain, value: float) -> float:
    """Scale a value from its range to [0, 1]; logarithmic if the domain is."""
    assert domain.low is not None
    assert domain.high is not None
    scale: Callable[[float], float] = math.log if domain.log else float
    low, high = scale(domain.low), scale(domain.high)
    return (scale(value) - low) / (high - low)


def random_points(
    domains: Mapping[str, Domain], integers: frozenset[str], number: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Random values in each range, unscaled; one column per key."""
    generator = np.random.default_rng(seed)
    columns = {}
    for key, domain in domains.items():
        assert domain.low is not None
        assert domain.high is not None
        share = generator.uniform(size=number)
        if domain.log:
            column = np.exp(math.log(domain.low) + share * math.log(domain.high / domain.low))
        else:
            column = domain.low + share * (domain.high - domain.low)
        columns[key] = np.round(column) if key in integers else column
    return columns


_HARTMANN_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
_HARTMANN = {
    3: (
        np.array([[3.0, 10, 30], [0.1, 10, 35], [3.0, 10, 30], [0.1, 10, 35]]),
        np.array([[3689, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381, 5743, 8828]]) * 1e-4,
        3.86278,
    ),
    6: (
        np.array(
            [
                [10, 3, 17, 3.5, 1.7, 8],
                [0.05, 10, 17, 0.1, 8, 14],
                [3, 3.5, 1.7, 10, 17, 8],
                [17, 8, 0.05, 10, 0.1, 14],
            ]
        ),
        np.array(
            [
                [1312, 1696, 5569, 124, 8283, 5886],
                [2329, 4135, 8307, 3736, 1004, 9991],
                [2348, 1451, 3522, 2883, 3047, 6650],
                [4047, 8828, 8732, 5743, 1091, 381],
            ]
        )
        * 1e-4,
        3.32237,
    ),
}


class Hartmann:
    """The Hartmann function over a fidelity, after Kandasamy et al. 2017 (BOCA, arXiv 1703.06240) and Mallik et al. 2023.

    f(x, z) = sum_i (alpha_i - bias (1 - u)) exp(-sum_j A_ij (x_j - P_ij)^2) - noise (1 - u) |e|, with u = log z / log 100
    for z = 1 ... 100 and e standard normal, drawn once per (x, z). At z = 100 it is the standard function with a
    known optimum. The presets of bias and noise are those of PriorBand (Mallik et al. 2023, arXiv 2306.12370). A
    step takes one second.
    """

    PRESETS = {"good": (2.5, 2.0), "bad": (3.5, 4.0)}
    steps = tuple(range(1, 101))
    rungs = (1, 3)
    integers: frozenset[str] = frozenset()
    training_seconds = 100.0
    worst = 0.0

    def __init__(self, dimensions: int, preset: str) -> None:
        self.name = f"hartmann{dimensions}-{preset}"
        self.bias, self.noise = self.PRESETS[preset]
        self._a, self._p, self.best = _HARTMANN[dimensions]
        self.domains = {f"x{index}": Domain(low=0.0, high=1.0) for index in range(dimensions)}

    def curve(self, params: Mapping[str, Any]) -> Recorded:
        x = np.array([params[key] for key in self.domains])
        bumps = np.exp(-(self._a * (x - self._p) ** 2).sum(axis=1))
        distance = 1 - self._log_fidelity
        noise = np.abs(np.random.default_rng(abs(hash(tuple(x))) % 2**32).normal(size=len(self.steps)))
        values = _HARTMANN_ALPHA @ bumps - self.bias * distance * bumps.sum() - self.noise * distance * noise
        return Recorded(tuple(values.tolist()), tuple(float(step) for step in self.steps))

    @cached_property
    def _log_fidelity(self) -> NDArray[np.float64]:
        return np.log(self.steps) / math.log(self.steps[-1])
