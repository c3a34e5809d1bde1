"""A trial without training whose values follow from its parameters, with the product's checkpoints."""

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
    """Each step adds the trial's dropout to a sum: a lost or repeated step changes all later values."""

    step_seconds: ClassVar[float] = STEP_SECONDS

    def __init__(self, spec: TrialSpec, checkpoints: Checkpoints | None) -> None:
        assert checkpoints is not None
        self._spec, self._checkpoints = spec, checkpoints
        state, rejected = checkpoints.newest()
        self._notes = list(rejected)
        state = state or {"step": 0, "sum": 0.0, "report": None}
        self._step, self._sum, self._pending = state["step"], state["sum"], state["report"]
        self._saved = self._step

    @property
    def step(self) -> int:
        return self._step

    def advance(self) -> TrialUpdate:
        if self._pending is not None:  # the driver may not have received it
            return self._report()
        time.sleep(self.step_seconds)
        self._step += 1
        self._sum += float(self._spec.model["dropout"])
        if self._step % self._spec.training["eval_every"] == 0:
            metrics = {"val_accuracy": self._sum, "val_loss": 1.0 - self._sum / 10}
            self._pending = {"step": self._step, "metrics": metrics}
            self.save()
            return self._report()
        return TrialUpdate(step=self._step)

    def _report(self) -> TrialUpdate:
        report, self._pending = self._pending, None
        notes, self._notes = tuple(self._notes), []
        last = report["step"] == self._spec.training["steps"]
        outcome = "complete" if last else "running"
        return TrialUpdate(step=report["step"], metrics=report["metrics"], outcome=outcome, notes=notes)

    def save(self) -> None:
        if self._step == self._saved:
            return
        self._checkpoints.save(self._step, {"step": self._step, "sum": self._sum, "report": self._pending})
        self._saved = self._step


class SumTrainable(TrialTrainable):
    """The trial with Ray."""

    def _make_run(self) -> TrialRun:
        return SumRun(self._spec, self._checkpoints)


class Worker(SumTrainable):
    """The trial in the driver's process, with the methods that TrialTrainable calls for Ray."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def one_update(self) -> TrialUpdate:
        return self._advance()

    def leave(self) -> None:
        with suppress(OSError):
            self._end()


def search_here(stop: Callable[[StudyController], Any]) -> Callable[..., None]:
    """A replacement of `run.driver._search` that runs a few trials in turns, without Ray; `stop` handles signals."""

    def search(study: Any, controller: StudyController, *_: Any) -> None:
        controller.hold({"cpu": 1, "gpu": 0})
        workers: dict[int, Worker] = {}
        with stop(controller), storage_errors():
            while True:
                while len(workers) < WORKERS and (assignment := controller.next_trial()) is not None:
                    config = {
                        "spec": assignment.spec.model_dump_json(),
                        "checkpoints": assignment.checkpoints.to_json(),
                    }
                    workers[assignment.number] = Worker(config)
                if not workers and controller.finished:
                    return
                if not workers:
                    time.sleep(STEP_SECONDS)
                for number in list(workers):
                    if controller.receive(number, workers[number].one_update(), {}):
                        workers.pop(number).leave()

    return search


cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import the tests
