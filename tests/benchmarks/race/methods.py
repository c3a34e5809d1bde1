"""The methods of a race by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxytune.tuning.plan.workers import Method
from proxytune.tuning.spec.search import WarmStartSource
from proxytune.tuning.studies import banked_studies
from tests.benchmarks.race.baselines import OneEpoch, Pasha
from tests.benchmarks.race.controlled import Controlled, common_start, table_spec
from tests.benchmarks.race.simulate import RULES, Outcome, Race
from tests.benchmarks.race.stock import Stock
from tests.benchmarks.race.tables import Task

NUM_COMMON = 10  # the number of random trials of Optuna's TPE
BUDGETS = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # per worker, in full trainings
STOCK = "stock OptunaSearch + ASHA"
ONE_EPOCH = "one epoch, then top K"
BEFORE = "tpe + asha"
OURS = "curve + curve"

Make = Callable[[Task, int, Sequence[Mapping[str, Any]]], Method]


COLD = "curve + curve, cold start"
TOP = 3  # configurations of the source that run first


def warm(source: str) -> str:
    """The name of the method that starts from a study of the curve bank."""
    return f"curve + curve, warm start from {source}"


def _controlled(sampler: str, stopping: str) -> Make:
    return lambda task, seed, start: Controlled(table_spec(task, sampler, stopping, seed, start), task.steps)


METHODS: dict[str, Make] = {
    "random": _controlled("random", "none"),
    "tpe": _controlled("tpe", "none"),
    STOCK: Stock,
    "stock OptunaSearch + HyperBand": lambda task, seed, start: Stock(task, seed, start, brackets=3),
    ONE_EPOCH: OneEpoch,
    "PASHA": Pasha,
    "gp + asha": _controlled("gp", "asha"),
    BEFORE: _controlled("tpe", "asha"),
    "curve + asha": _controlled("curve", "asha"),
    "tpe + curve": _controlled("tpe", "curve"),
    OURS: _controlled("curve", "curve"),
}


def _started(source: str | None) -> Make:
    """The shipped search with a study of the bank as its warm start, or without; no common configurations."""
    warm_start = None if source is None else WarmStartSource(bank=source, top=TOP)

    def make(task: Task, seed: int, start: Sequence[Mapping[str, Any]]) -> Method:
        return Controlled(table_spec(task, "curve", "curve", seed, [], warm_start), task.steps)

    return make


STARTS: dict[str, Make] = {COLD: _started(None)} | {
    warm(source): _started(source) for source in banked_studies()
}
"""The methods of the benchmark of warm starts (warm_start.py)."""


@dataclass(frozen=True, order=True)
class Run:
    """One race: method, task, seed and number of workers."""

    workers: int
    seed: int
    task: str
    method: str


def race(task: Task, run: Run, budgets: Sequence[float]) -> Outcome:
    """The regret of a method by each rule at each budget, in full trainings per worker."""
    start = common_start(task, run.seed, NUM_COMMON)
    seconds = [budget * task.training_seconds for budget in budgets]
    method = (METHODS | STARTS)[run.method](task, run.seed, start)
    if not isinstance(method, OneEpoch):
        return Race(task, method, run.workers).run(seconds)
    explored = Race(task, method, run.workers).run([seconds[-1] - task.training_seconds])
    finals = [method.finals(budget, run.workers) for budget in seconds]
    for rule, values in zip(RULES, zip(*finals, strict=True), strict=True):
        explored.regrets[rule] = [task.best - value for value in values]
    return explored
