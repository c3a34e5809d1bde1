"""Methods of the literature that are in neither proxytune nor Ray: one epoch, then the top K; and PASHA."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from proxytune.tuning.spec.space import SearchSpace
from tests.benchmarks.race.tables import Task

NUM_TPE = 200


class _Proposals:
    """Optuna's TPE with one value per configuration; after NUM_TPE configurations random proposals, which take no time."""

    def __init__(self, task: Task, seed: int, start: Sequence[Mapping[str, Any]]) -> None:
        self._space = SearchSpace(task.domains, task.integers)
        self._seed = seed
        self._study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        for params in start:
            self._study.enqueue_trial(dict(params))
        self._trials: dict[int, optuna.Trial] = {}

    def new(self) -> tuple[int, Mapping[str, Any]]:
        if len(self._trials) == NUM_TPE:
            self._study.sampler = optuna.samplers.RandomSampler(seed=self._seed)
        trial = self._study.ask()
        self._trials[trial.number] = trial
        return trial.number, self._space.suggest(trial, {})

    def tell(self, number: int, value: float) -> None:
        self._study.tell(self._trials[number], value)


class OneEpoch:
    """One epoch for every configuration, then full trainings of the best configurations (Egele et al. 2023, arXiv 2307.15422).

    This is the exploration, with TPE; `finals` simulates the rest for each budget, which this method must know.
    """

    now = 0.0

    def __init__(self, task: Task, seed: int, start: Sequence[Mapping[str, Any]]) -> None:
        self._task = task
        self._proposals = _Proposals(task, seed, start)
        self._params: dict[int, Mapping[str, Any]] = {}
        self._first: list[tuple[float, float, int]] = []  # time of the ask, value, trial

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        self._asked = self.now
        number, params = self._proposals.new()
        self._params[number] = params
        return number, params

    def tell(self, trial: int, report: int, value: float, seconds: float, ending: str) -> bool:
        self._first.append((self._asked, value, trial))
        self._proposals.tell(trial, value)
        return True

    def finals(self, budget: float, num_workers: int) -> tuple[float, float]:
        """The values of the best configuration that is trained within the budget, and of the leading configuration.

        Each worker explores until one training of mean length is left, then trains the best configurations by the
        value of their first epoch, one after the other, within the budget.
        """
        switch = max(0.0, budget - self._task.training_seconds)
        explored = [entry for entry in self._first if entry[0] <= switch] or self._first[:1]
        ranked = sorted(explored, key=lambda entry: -entry[1])
        last = len(self._task.steps) - 1
        free = [max(switch, explored[0][0])] * num_workers
        trained, leader = self._task.worst, (-math.inf, self._task.worst)
        for _, first, trial in ranked:
            curve = self._task.curve(self._params[trial])
            began = min(free)
            if began >= budget:
                break
            seconds = curve.seconds(last) - curve.seconds(0) if curve.complete else 0.0
            free[free.index(began)] = began + seconds
            final = curve.value(last) if curve.complete else self._task.worst
            over = began + seconds <= budget
            if over and curve.complete:
                trained = max(trained, final)
            leader = max(leader, (final if over else first, final))
        return trained, leader[1]


class Pasha:
    """PASHA (Bohdal et al. 2023, arXiv 2207.06940): ASHA by promotion, whose highest rung grows while ranks disagree.

    It starts with the two lowest rungs. Another rung is added whenever the ranking of the configurations in
    the top rung differs from that in the rung below; values closer than epsilon are equal (soft ranking).
    Epsilon is the 90th percentile of the gaps between pairs of configurations whose curves have crossed at least twice.
    Proposals are random, as in the paper. When no rung is added any more, it continues exploring.
    """

    now = 0.0

    def __init__(self, task: Task, seed: int, start: Sequence[Mapping[str, Any]]) -> None:
        first, self._factor = task.rungs
        self._space = SearchSpace(task.domains, task.integers)
        self._study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed + 10**6))
        self._start = [dict(params) for params in start]
        rungs = []
        while first < task.steps[-1]:
            rungs.append(task.steps.index(first))
            first *= self._factor
        self._rungs = [*rungs, len(task.steps) - 1]  # as indices of reports
        self._top = 1
        self._values: list[dict[int, float]] = [{} for _ in self._rungs]
        self._promoted: list[set[int]] = [set() for _ in self._rungs]
        self._curves: dict[int, list[float]] = {}
        self._params: list[Mapping[str, Any]] = []

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        for rung in range(self._top - 1, -1, -1):
            values = self._values[rung]
            best = sorted(values, key=values.__getitem__, reverse=True)[: len(values) // self._factor]
            for trial in best:
                if trial not in self._promoted[rung]:
                    self._promoted[rung].add(trial)
                    return trial, self._params[trial]
        self._params.append(self._start.pop(0) if self._start else self._space.suggest(self._study.ask(), {}))
        return len(self._params) - 1, self._params[-1]

    def tell(self, trial: int, report: int, value: float, seconds: float, ending: str) -> bool:
        self._curves.setdefault(trial, []).append(value)
        if ending == "diverged":
            return True
        if report not in self._rungs:
            return False
        rung = self._rungs.index(report)
        self._values[rung][trial] = value
        if rung == self._top and self._top < len(self._rungs) - 1 and not self._consistent():
            self._top += 1
        return True

    def _consistent(self) -> bool:
        """Whether the top rung and the rung below rank the configurations equally, up to epsilon."""
        upper = self._values[self._top]
        lower = {trial: self._values[self._top - 1][trial] for trial in upper}
        epsilon = self._epsilon(list(upper))
        ranked = sorted(upper, key=upper.__getitem__, reverse=True)
        before = sorted(upper, key=lower.__getitem__, reverse=True)
        return all(
            abs(lower[trial] - lower[other]) <= epsilon for trial, other in zip(ranked, before, strict=True)
        )

    def _epsilon(self, trials: Sequence[int]) -> float:
        gaps = []
        for position, trial in enumerate(trials):
            for other in trials[position + 1 :]:
                pairs = list(zip(self._curves[trial], self._curves[other], strict=False))
                signs = [a > b for a, b in pairs if a != b]
                if sum(x != y for x, y in itertools.pairwise(signs)) >= 2:
                    gaps.append(abs(pairs[-1][0] - pairs[-1][1]))
        gaps.sort()
        return gaps[math.ceil(0.9 * len(gaps)) - 1] if gaps else 0.0
