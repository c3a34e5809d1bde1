"""Searches of proxytune as methods: tuning/plan/virtual_study.py over a table."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import optuna
from pydantic import field_validator, model_validator

from proxytune.tuning.plan.virtual_study import VirtualStudy
from proxytune.tuning.spec.search import Search, WarmStartSource
from proxytune.tuning.spec.space import Domain, SearchSpace
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.trial_spec import TrialSpec
from tests.benchmarks.race.tables import Task

METRIC = "val_accuracy"


class TableSearch(Search):
    """A search over arbitrary keys, since nothing is trained."""

    @field_validator("space")
    @classmethod
    def _searchable(cls, space: dict[str, Domain]) -> dict[str, Domain]:
        return space


class TableSpec(StudySpec):
    """A study over a table."""

    search: TableSearch
    integers: frozenset[str] = frozenset()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        return self  # the keys are not those of a training

    @cached_property
    def space(self) -> SearchSpace:
        return SearchSpace(self.search.space, self.integers)

    @cached_property
    def _trial(self) -> TrialSpec:
        return TrialSpec(name=self.name, task=self.task, model=self.model, training=self.training)

    def trial(self, params: Mapping[str, Any]) -> TrialSpec:
        return self._trial


def table_spec(
    task: Task,
    sampler: str,
    stopping: str,
    seed: int,
    start: Sequence[Mapping[str, Any]],
    warm_start: WarmStartSource | None = None,
) -> TableSpec:
    """The study of one race."""
    first, factor = task.rungs
    return TableSpec(
        name="race",
        task={"name": "listops-mini"},
        training={
            "steps": task.steps[-1],
            "eval_every": task.steps[0],
            "warmup_steps": 0,
            "batch_size": 1,
            "learning_rate": 1.0,
        },
        integers=task.integers,
        search=TableSearch(
            space=dict(task.domains),
            sampler={"name": sampler, "seed": seed},
            stopping={"name": stopping, "min_steps": first, "reduction_factor": factor},
            trials=10**6,
            enqueue=tuple(dict(params) for params in start),
            warm_start=warm_start,
        ),
    )


class Controlled(VirtualStudy):
    """A study over a table with reports at given steps."""

    def __init__(self, spec: TableSpec, steps: Sequence[int], storage: Any = None) -> None:
        super().__init__(spec, storage)
        self._steps = steps

    def report(self, trial: int, report: int, value: float, seconds: float) -> tuple[int, dict[str, float]]:
        return self._steps[report], {METRIC: value, "seconds": seconds}


def common_start(task: Task, seed: int, number: int) -> list[dict[str, Any]]:
    """Random configurations with which all methods start, to reduce variance."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    space = SearchSpace(task.domains, task.integers)
    return [space.suggest(study.ask(), {}) for _ in range(number)]
