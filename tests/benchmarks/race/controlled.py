"""Methods that are searches of proxytune: the real controller, samplers and rungs on Optuna's in-memory storage.

A test holds that the sqlite storage of a real study gives the same race.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import optuna
import sqlalchemy as sa
from pydantic import field_validator, model_validator

from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.search import Search
from proxytune.tuning.spec.space import Domain, SearchSpace
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.attributes import BUDGET, STUDY_ID
from proxytune.tuning.store.tables import metadata
from proxytune.tuning.trial.update import TrialUpdate
from tests.benchmarks.race.tables import Task

METRIC = "val_accuracy"


class TableSearch(Search):
    """A search of any keys, since nothing is trained."""

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
        return self  # the keys are none of a training's

    @cached_property
    def space(self) -> SearchSpace:
        return SearchSpace(self.search.space, self.integers)

    @cached_property
    def _trial(self) -> TrialSpec:
        return TrialSpec(name=self.name, task=self.task, model=self.model, training=self.training)

    def trial(self, params: Mapping[str, Any]) -> TrialSpec:
        return self._trial


def table_spec(
    task: Task, sampler: str, stopping: str, seed: int, start: Sequence[Mapping[str, Any]]
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
        ),
    )


class Journal:
    """An outbox that keeps nothing: what MLflow would show decides nothing."""

    def append(self, event: Any) -> bool:
        return True


class MemoryStorage(optuna.storages.InMemoryStorage):
    """Optuna's storage in memory, with an engine for the requests of other terminals, of which there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
        metadata.create_all(self.engine)


class Controlled:
    """The controller as a driver runs it."""

    now = 0.0

    def __init__(self, spec: TableSpec, steps: Sequence[int], storage: Any = None) -> None:
        self._steps = steps
        storage = storage or MemoryStorage()
        self.study = optuna.create_study(
            study_name=spec.name,
            storage=storage,
            sampler=optuna.samplers.RandomSampler(),
            directions=list(spec.search.objectives.values()),
        )
        self.study.set_user_attr(BUDGET, spec.search.trials)
        self.study.set_user_attr(STUDY_ID, spec.name)
        for params in spec.search.enqueue:
            self.study.enqueue_trial(dict(params))
        self._controller = StudyController(spec, self.study, storage, Journal())
        self._controller.reconcile()

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        assignment = self._controller.next_trial()
        assert assignment is not None
        return assignment.number, self._controller.live[assignment.number].params

    def tell(self, trial: int, report: int, value: float, seconds: float, ending: str) -> bool:
        metrics = {METRIC: value, "seconds": seconds}
        update = TrialUpdate(step=self._steps[report], metrics=metrics, outcome=Outcome(ending))
        return self._controller.receive(trial, update, {})


def common_start(task: Task, seed: int, number: int) -> list[dict[str, Any]]:
    """The random configurations with which every method begins, so that luck at the start is shared."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    space = SearchSpace(task.domains, task.integers)
    return [space.suggest(study.ask(), {}) for _ in range(number)]
