"""A trial that costs nothing and whose values follow from its parameters, with real checkpoints."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from ray import cloudpickle

from proxytune.tuning.cluster.trainable import TrialTrainable
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.checkpoints import Checkpoints
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.trial.trial_run import TrialRun
from proxytune.tuning.trial.update import TrialUpdate

STEP_SECONDS = 0.1
WORKERS = 3


class SumRun(TrialRun):
    """Each step adds the trial's dropout to a sum, so that a value shows if a step was lost or done twice."""

    step_seconds: ClassVar[float] = STEP_SECONDS

    def __init__(self, spec: TrialSpec, checkpoints: Checkpoints | None) -> None:
        assert checkpoints is not None
        self._spec, self._checkpoints = spec, checkpoints
        state, refused = checkpoints.newest()
        self._notes = list(refused)
        state = state or {"step": 0, "sum": 0.0, "report": None}
        self._step, self._sum, self._kept = state["step"], state["sum"], state["report"]
        self._saved = self._step

    @property
    def step(self) -> int:
        return self._step

    def advance(self) -> TrialUpdate:
        if self._kept is not None:  # the driver may not have heard of it
            return self._told()
        time.sleep(self.step_seconds)
        self._step += 1
        self._sum += float(self._spec.model["dropout"])
        if self._step % self._spec.training["eval_every"] == 0:
            metrics = {"val_accuracy": self._sum, "val_loss": 1.0 - self._sum / 10}
            self._kept = {"step": self._step, "metrics": metrics}
            self.save()
            return self._told()
        return TrialUpdate(step=self._step)

    def _told(self) -> TrialUpdate:
        report, self._kept = self._kept, None
        notes, self._notes = tuple(self._notes), []
        last = report["step"] == self._spec.training["steps"]
        outcome = "complete" if last else "running"
        return TrialUpdate(step=report["step"], metrics=report["metrics"], outcome=outcome, notes=notes)

    def save(self) -> None:
        if self._step == self._saved:
            return
        self._checkpoints.save(self._step, {"step": self._step, "sum": self._sum, "report": self._kept})
        self._saved = self._step


class SumTrainable(TrialTrainable):
    """The trial on Ray."""

    def _make_run(self) -> TrialRun:
        return SumRun(self._spec, self._checkpoints)


class Worker(SumTrainable):
    """The trial in the driver's own process: what TrialTrainable does between Ray's calls."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def one_update(self) -> TrialUpdate:
        return self._advance()

    def leave(self) -> None:
        with suppress(OSError):
            self._end()


def search_here(stop: Callable[[StudyController], Any]) -> Callable[..., None]:
    """In place of `run.driver._search`: a few trials in turns, without Ray; `stop` handles signals meanwhile."""

    def search(study: Any, controller: StudyController, *_: Any) -> None:
        controller.hold({"cpu": 1, "gpu": 0})
        workers: dict[int, Worker] = {}
        with stop(controller), storage_errors():
            while True:
                while len(workers) < WORKERS and (given := controller.next_trial()) is not None:
                    config = {
                        "spec": given.spec.model_dump_json(),
                        "checkpoints": given.checkpoints.to_json(),
                    }
                    workers[given.number] = Worker(config)
                if not workers and controller.finished:
                    return
                if not workers:
                    time.sleep(STEP_SECONDS)
                for number in list(workers):
                    if controller.receive(number, workers[number].one_update(), {}):
                        workers.pop(number).leave()

    return search


cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import the tests
