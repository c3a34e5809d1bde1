"""A driver of many trials keeps only a few of Ray Tune's trial objects in memory."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
TRIALS, KEPT = 60, 10
DRIVER = f"""
import gc, sys
from pathlib import Path
sys.path.append({str(REPOSITORY)!r})
from ray.tune.experiment import Trial
from proxytune.tuning.cluster import bridge
from proxytune.tuning.run.driver import run_study
from proxytune.tuning.search.controller import StudyController
from tests.benchmarks.turnaround import NoWorkTrainable, no_work_study

class CountingController(StudyController):
    def next_trial(self):
        assignment = super().next_trial()
        if assignment is not None and assignment.number == {TRIALS - 1}:
            gc.collect()
            print("alive", sum(isinstance(thing, Trial) for thing in gc.get_objects()))
        return assignment

bridge.KEPT_TRIALS = {KEPT}
spec = no_work_study(Path("studies"), {TRIALS})
study = run_study(spec, trainable=NoWorkTrainable, make_controller=CountingController)
print("complete", sum(trial.state.name == "COMPLETE" for trial in study.trials()))
"""


@pytest.mark.slow
@pytest.mark.e2e
def test_tune_keeps_at_most_kept_trials_in_memory(tmp_path: Path) -> None:
    """Without this limit, a driver's memory grows by 36 MiB per 1,000 trials."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", DRIVER],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counted = dict(line.split() for line in done.stdout.splitlines())
    assert int(counted["complete"]) == TRIALS
    assert 1 <= int(counted["alive"]) <= KEPT, "trial objects of Ray Tune in the driver's memory"
