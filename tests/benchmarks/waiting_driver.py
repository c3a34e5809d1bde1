"""Run a study whose trials sleep instead of training, with real checkpoints.

`python -P waiting_driver.py STORAGE ADDRESS KEY=VALUE...`

A trial uses almost no CPU time, so eight slots on a machine with two cores are as fast as two.
"""

import sys
from pathlib import Path
from typing import ClassVar

from proxytune.tuning.run.driver import run_study
from proxytune.tuning.spec.study_files import read_study
from proxytune.tuning.trial.trial_run import TrialRun

sys.path.append(str(Path(__file__).parents[2]))
from tests.faults.soak_trial import SumRun, SumTrainable


class WaitingRun(SumRun):
    """Each step sleeps for one second."""

    step_seconds: ClassVar[float] = 1.0


class WaitingTrainable(SumTrainable):
    """The Ray trainable of a `WaitingRun`."""

    def _make_run(self) -> TrialRun:
        return WaitingRun(self._spec, self._checkpoints)


if __name__ == "__main__":
    storage, address, *values = sys.argv[1:]
    run_study(
        read_study("recall", [*values, f"storage={storage}"]), address=address, trainable=WaitingTrainable
    )
