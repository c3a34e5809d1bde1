"""A small searched study, and its confirmation with real trainings."""

from collections.abc import Callable
from pathlib import Path

import pytest

from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.store.checkpoints import Checkpoints
from proxytune.tuning.store.confirmation import Confirmation
from proxytune.tuning.store.study import Study
from proxytune.tuning.trial.trial_run import TrialRun
from tests.tuning.confirm.synthetic import SPACE, concluded, plan_for, racing, searched


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., StudySpec]:
    def spec(**search: object) -> StudySpec:
        values = {
            "name": "small",
            "task": {"name": "listops-mini", "train_examples": 256},
            "model": {"num_layers": 1, "embedding_dim": 16, "feedforward_dim": 16, "num_proxies": 4},
            "training": {
                "steps": 4,
                "warmup_steps": 2,
                "batch_size": 8,
                "learning_rate": 1e-3,
                "eval_every": 2,
            },
            "search": {"space": SPACE, "stopping": {"name": "none"}, "trials": 6} | search,
            "storage": str(tmp_path / "studies"),
        }
        return parse_study(values, "test")

    return spec


@pytest.fixture
def study(make) -> Study:
    return searched(make(), [0.30, 0.31, 0.32, 0.33, 0.34, 0.10])


@pytest.fixture
def trained(make) -> tuple[Study, Confirmation, list[Checkpoints]]:
    """A confirmed study with real, short retrainings."""
    study = searched(make(trials=2), [0.3, 0.2])
    plan = plan_for(study, 1, 2)
    driver = racing(study, plan)
    while (assignment := driver.controller.next_trial()) is not None:
        run = TrialRun(assignment.spec, assignment.checkpoints)
        while not driver.controller.receive(assignment.number, run.advance(), {}):
            pass
    driver.close()
    trials = driver.study.trials()
    return study, concluded(study, plan, trials), [driver.study.checkpoints(trial) for trial in trials]
