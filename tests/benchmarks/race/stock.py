"""Ray's methods: OptunaSearch with AsyncHyperBandScheduler, called in the same order as by Tune."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from proxytune.tuning.spec.space import SearchSpace
from tests.benchmarks.race.tables import Task

METRIC = "val_accuracy"


class Stock:
    """Ray's OptunaSearch and ASHA; with `brackets` above 1, asynchronous HyperBand."""

    now = 0.0

    def __init__(self, task: Task, seed: int, start: Sequence[Mapping[str, Any]], brackets: int = 1) -> None:
        from ray.tune.schedulers import AsyncHyperBandScheduler
        from ray.tune.search.optuna import OptunaSearch

        space = SearchSpace(task.domains, task.integers)
        first, factor = task.rungs
        self._steps = task.steps
        self._search = OptunaSearch(
            {key: space.distributions[key] for key in space.order},
            metric=METRIC,
            mode="max",
            seed=seed,
            points_to_evaluate=[dict(params) for params in start],
        )
        self._scheduler: Any = AsyncHyperBandScheduler(
            time_attr="step",
            metric=METRIC,
            mode="max",
            max_t=task.steps[-1],
            grace_period=first,
            reduction_factor=factor,
            brackets=brackets,
        )
        self._trials: dict[str, Any] = {}

    def ask(self) -> tuple[str, Mapping[str, Any]]:
        name = f"{len(self._trials):08d}"
        params = self._search.suggest(name)
        assert params is not None
        self._trials[name] = SimpleNamespace(trial_id=name)
        self._scheduler.on_trial_add(None, self._trials[name])
        return name, params

    def tell(self, trial: str, report: int, value: float, seconds: float, ending: str) -> bool:
        result = {METRIC: value, "step": self._steps[report], "training_iteration": report + 1}
        over = ending != "running"
        if not over:
            over = self._scheduler.on_trial_result(None, self._trials[trial], result) == self._scheduler.STOP
            self._search.on_trial_result(trial, result)
        if over:
            self._scheduler.on_trial_complete(None, self._trials[trial], result)
            self._search.on_trial_complete(trial, result)
        return over
