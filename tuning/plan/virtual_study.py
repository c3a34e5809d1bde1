"""Runs the real controller, with its samplers, rungs and budget, on Optuna's in-memory storage in virtual time.

A test checks that the sqlite storage of a real study gives the same search.
"""

from collections.abc import Mapping
from typing import Any

import optuna
import sqlalchemy as sa

from proxytune.tuning.plan.workers import Ending
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.search.limits import Limits
from proxytune.tuning.search.warm_start import fill_study, read_warm_start
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import STUDY_ID
from proxytune.tuning.store.tables import metadata
from proxytune.tuning.trial.update import TrialUpdate


class _NoJournal:
    """An outbox that discards events; they do not affect the search."""

    def append(self, event: Any) -> bool:
        return True


class MemoryStorage(optuna.storages.InMemoryStorage):
    """Optuna's in-memory storage, with an engine for the (empty) table of requests from other terminals."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
        metadata.create_all(self.engine)


class VirtualStudy:
    """A study as a driver runs it; implements `Method` for Workers.

    Attributes:
        controller: the study controller.
        study: the Optuna study.
    """

    now = 0.0

    def __init__(
        self, spec: StudySpec, storage: Any = None, controller: type[StudyController] = StudyController
    ) -> None:
        """Create a new study; `controller` may be a subclass, such as one with known costs."""
        storage = storage or MemoryStorage()
        self.study = optuna.create_study(
            study_name=spec.name,
            storage=storage,
            sampler=optuna.samplers.RandomSampler(),
            directions=list(spec.search.objectives.values()),
        )
        self.study.set_user_attr(STUDY_ID, spec.name)
        fill_study(self.study, spec, read_warm_start(spec))
        no_journal: Any = _NoJournal()
        self.controller = controller(
            spec, self.study, storage, no_journal, limits=Limits(spec, lambda: self.now)
        )
        self.controller.reconcile()

    def ask(self) -> tuple[int, Mapping[str, Any]] | None:
        assignment = self.controller.next_trial()
        if assignment is None:
            return None
        return assignment.number, self.controller.live[assignment.number].params

    def tell(self, trial: int, report: int, value: float, seconds: float, ending: Ending) -> bool:
        step, metrics = self.report(trial, report, value, seconds)
        update = TrialUpdate(step=step, metrics=metrics, outcome=Outcome(ending))
        return self.controller.receive(trial, update, {})

    def report(self, trial: int, report: int, value: float, seconds: float) -> tuple[int, dict[str, float]]:
        """The step of a trial's report and its metrics."""
        raise NotImplementedError
