"""Random learning curves, because the real curves are unknown before the study has run.

A random fraction (LEARNABLE) of the final values' variance is -sum_j w_j (x_j - c_j)^2 at the configuration x (a point of
the unit cube), with a random optimum c and random weights w: the sampler can find the optimum, and its proposals drift
to one part of the space. The remaining variance is independent for each trial. An earlier value differs from the final
value by a random walk in ln(step) of random size, so rungs range from fully to weakly informative.

Both ranges are calibrated on the tables of the race (12 tasks of lcbench, 4 Hartmann functions, own curves). With them
the `curve` sampler and stopping rule spend the same share of the steps on random curves as on the tables: medians of
0.81, 0.65 and 0.75 against 0.78, 0.65 and 0.75 for 12 trials of 3 reports, 12 of 6 and 40 of 6.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from proxytune.tuning.plan.costs import Cost
from proxytune.tuning.plan.workers import Ending
from proxytune.tuning.search.encoding import Encoding
from proxytune.tuning.spec.study_spec import StudySpec

LEARNABLE = 0.5, 1.0  # fraction of the final values' variance that the configuration explains
MOST_NOISE = 2.0  # largest deviation of the first value from the final value, in standard deviations of the final values


@dataclass(frozen=True)
class DrawnCurve:
    """A training that reaches its full budget; times count from its assignment to a worker."""

    steps: tuple[int, ...]
    values: tuple[float, ...]
    times: tuple[float, ...]

    def value(self, report: int) -> float:
        return self.values[report]

    def seconds(self, report: int) -> float:
        return self.times[report]

    def ending(self, report: int) -> Ending:
        return "complete" if report == len(self.values) - 1 else "running"


class Draw:
    """One random assignment of curves to configurations."""

    def __init__(self, spec: StudySpec, seed: int) -> None:
        self._encoding = Encoding(spec.space, spec.fixed)
        self._random = np.random.default_rng(seed)
        size = self._encoding.size
        self._optimum = self._random.random(size)
        self._weights = self._random.exponential(size=size)
        self._noise = self._random.uniform(0.0, MOST_NOISE)
        spread = np.std([self._final(point) for point in self._random.random((200, size))])
        learnable = self._random.uniform(*LEARNABLE)
        self._weights *= math.sqrt(learnable) / (spread + 1e-12)
        self._own = math.sqrt(1 - learnable)

    def curve(self, params: Mapping[str, Any], training: Mapping[str, Any], cost: Cost) -> DrawnCurve:
        """The curve of a configuration with these training values and this cost."""
        steps = report_steps(training)
        times = [
            cost.start + step * cost.step + (index + 1) * cost.evaluation for index, step in enumerate(steps)
        ]
        final = self._final(np.array(self._encoding.encode(params)))
        values = final + self._own * self._random.normal() + self._noise * self._walk(steps)
        return DrawnCurve(steps, tuple(values.tolist()), tuple(times))

    def _final(self, point: Any) -> float:
        return -float(self._weights @ (point - self._optimum) ** 2)

    def _walk(self, steps: Sequence[int]) -> Any:
        """A random walk backwards from 0 at the last report, of standard deviation 1 at the first."""
        logs = np.log(steps)
        spans = np.diff(logs) / max(logs[-1] - logs[0], 1e-12)
        moves = self._random.normal(size=len(spans)) * np.sqrt(spans)
        return np.concatenate([np.cumsum(moves[::-1])[::-1], [0.0]])


def report_steps(training: Mapping[str, Any]) -> tuple[int, ...]:
    """The steps at which a trial reports."""
    steps, every = int(training["steps"]), int(training["eval_every"])
    return (*range(every, steps, every), steps)
