"""A driver whose trials wait instead of training, with real checkpoints: `python waiting.py STORAGE ADDRESS KEY=VALUE...`.

A slot then costs no core, so that eight of them on a machine of two cores are as fast as two.
"""

import sys
import time
from pathlib import Path

from proxytune.tuning.cluster.trainable import TrialTrainable
from proxytune.tuning.run.driver import run_study
from proxytune.tuning.spec.study_files import read_study
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.checkpoints import Checkpoints
from proxytune.tuning.trial.trial_run import TrialRun
from proxytune.tuning.trial.update import TrialUpdate

STEP_SECONDS = 1.0


class WaitingRun(TrialRun):
    """A step takes STEP_SECONDS; checkpoints are written at reports and when the trial is interrupted."""

    def __init__(self, spec: TrialSpec, checkpoints: Checkpoints | None) -> None:
        assert checkpoints is not None
        self._training_spec, self._checkpoints = spec.training, checkpoints
        state, _ = checkpoints.newest()
        self._step: int = state["step"] if state else 0
        self._saved = self._step

    @property
    def step(self) -> int:
        return self._step

    def advance(self) -> TrialUpdate:
        time.sleep(STEP_SECONDS)
        self._step += 1
        if self._step % self._training_spec["eval_every"]:
            return TrialUpdate(step=self._step)
        self.save()
        metrics = {"val_accuracy": 0.5, "val_loss": 1.0, "seconds": self._step * STEP_SECONDS}
        outcome = "complete" if self._step == self._training_spec["steps"] else "running"
        return TrialUpdate(step=self._step, metrics=metrics, outcome=outcome)

    def save(self) -> None:
        if self._step > self._saved:
            self._checkpoints.save(self._step, {"step": self._step})
            self._saved = self._step


class Waiting(TrialTrainable):
    """The trial on Ray."""

    def _make_run(self) -> TrialRun:
        return WaitingRun(self._spec, self._checkpoints)


if __name__ == "__main__":
    storage, address, *values = sys.argv[1:]
    run_study(read_study("recall", [*values, f"storage={Path(storage)}"]), address=address, trainable=Waiting)
