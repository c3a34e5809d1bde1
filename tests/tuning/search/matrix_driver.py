"""Runs studies with one fault per trial: `python matrix_driver.py FOLDER OBJECTIVES...`, one study per OBJECTIVES."""

import os
import signal
import sys
from pathlib import Path
from typing import Any, ClassVar

import torch

from proxytune.tuning.cluster.trainable import TrialTrainable
from proxytune.tuning.errors import ProxytuneError
from proxytune.tuning.run.driver import run_study
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.checkpoints import Checkpoints
from proxytune.tuning.trial.trial_run import TrialRun
from proxytune.tuning.trial.update import TrialUpdate

FAULTS = (
    "finishes",
    "stopped at a rung",
    "NaN",
    "Inf",
    "out of memory",
    "worker killed",
    "trial raises",
    "driver killed",
)
"""By trial number. Each occurs at step FAULT_STEP, after the rung and report at step RUNG."""
OBJECTIVES = {
    "one": {"val_accuracy": "maximize"},
    "several": {"val_accuracy": "maximize", "train_memory_mib_per_sequence": "minimize"},
}
RUNG, FAULT_STEP, STEPS = 10, 15, 20
MEMORY_BOUND = 1000.0
DRIVER = "MATRIX_DRIVER"  # environment variable: the process id of the driver


def accuracy(number: int, step: int) -> float:
    """Each trial is better than the earlier ones and passes the rung, except the trial that is to be stopped there."""
    return 0.01 * step / STEPS if FAULTS[number] == "stopped at a rung" else 0.1 * (number + step / STEPS)


class FaultyRun(TrialRun):
    """Real training up to the fault."""

    update_seconds: ClassVar[float] = 0.0  # one update per step

    def __init__(self, spec: TrialSpec, checkpoints: Checkpoints | None) -> None:
        assert checkpoints is not None
        self._number = checkpoints.owner.trial
        self._marker = Path(checkpoints.folder.url) / "fault"
        super().__init__(spec, checkpoints)

    def advance(self) -> TrialUpdate:
        fault = FAULTS[self._number]
        if self.step == FAULT_STEP and not self._marker.exists():
            self._marker.parent.mkdir(parents=True, exist_ok=True)
            self._marker.touch()
            if fault == "worker killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "driver killed":
                os.kill(int(os.environ[DRIVER]), signal.SIGKILL)
                signal.pause()  # Ray ends this process after its driver
            if fault == "trial raises":
                raise ValueError("injected error")
        return super().advance()

    def _train_step(self) -> None:
        if self.step == FAULT_STEP:
            fault = FAULTS[self._number]
            if fault in ("NaN", "Inf"):
                with torch.no_grad():
                    next(self.trainer.model.parameters()).fill_(float(fault))
            if fault == "out of memory":
                torch.empty(1 << 46)
        super()._train_step()

    def _evaluate(self) -> None:
        super()._evaluate()
        assert self._report is not None
        step, metrics = self._report
        metrics["val_accuracy"] = accuracy(self._number, step)


class FaultyTrainable(TrialTrainable):
    def _make_run(self) -> TrialRun:
        return FaultyRun(self._spec, self._checkpoints)


def matrix_spec(storage: Path, objectives: str) -> StudySpec:
    values: dict[str, Any] = {
        "name": objectives,
        "task": {"name": "listops-mini", "train_examples": 256},
        "model": {"num_layers": 1, "embedding_dim": 16, "feedforward_dim": 16, "num_proxies": 4},
        "training": {
            "steps": STEPS,
            "warmup_steps": 2,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "eval_every": RUNG,
        },
        "search": {
            "space": {"model.dropout": {"low": 0.0, "high": 0.3}},
            "objectives": OBJECTIVES[objectives],
            "constraints": {"train_memory_mib_per_sequence": f"<= {MEMORY_BOUND}"},
            "stopping": {"name": "asha", "min_steps": RUNG, "reduction_factor": 3},
            "trials": len(FAULTS),
        },
        "resources": {"max_concurrent": 1, "max_failures": 1},
        "storage": str(storage),
    }
    return parse_study(values, "matrix")


def main() -> None:
    os.environ[DRIVER] = str(os.getpid())
    for objectives in sys.argv[2:]:
        try:
            run_study(matrix_spec(Path(sys.argv[1]), objectives), trainable=FaultyTrainable)
        except ProxytuneError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
