"""The results page: means over seeds, and paired differences between configurations that differ in one parameter."""

from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from proxytune.tuning.spec.study_spec import parse_study
from proxytune.tuning.store.database import open_storage
from proxytune.tuning.store.study import Study
from tests.benchmarks.results import page, section

SPEC = {
    "name": "two-arms",
    "task": {"name": "listops-mini"},
    "training": {"steps": 30, "warmup_steps": 3, "batch_size": 8, "learning_rate": 1e-3, "eval_every": 10},
    "search": {
        "space": {"training.seed": {"choice": [0, 1, 2]}, "model.num_proxies": {"choice": [4, 8]}},
        "sampler": {"name": "grid"},
        "stopping": {"name": "none"},
        "trials": 6,
    },
}


def make_study(folder: Path, accuracies: dict[tuple[int, int], float]) -> Study:
    """A study with a complete trial per (number of proxies, seed)."""
    spec = parse_study({**SPEC, "storage": str(folder)}, "test")
    storage = open_storage(f"sqlite:///{folder}/study.db", create=True)
    study = optuna.create_study(study_name=spec.name, storage=storage, direction="maximize")
    for (proxies, seed), accuracy in accuracies.items():
        params: dict[str, Any] = {"training.seed": seed, "model.num_proxies": proxies}
        metrics = {"val_accuracy": accuracy, "best_val_accuracy": accuracy, "seconds": 60.0}
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions=spec.space.distributions,
                value=accuracy,
                state=TrialState.COMPLETE,
                user_attrs={"end": {"outcome": "complete", "reason": "", "step": 30, "metrics": metrics}},
            )
        )
    return Study(spec, storage, study)


def test_page_shows_means_and_marks_significant_paired_differences(tmp_path: Path) -> None:
    # Accuracies differ more between seeds than between arms, and the arms differ by almost the same amount per seed.
    accuracies = {(4, 0): 0.20, (4, 1): 0.40, (4, 2): 0.60, (8, 0): 0.31, (8, 1): 0.50, (8, 2): 0.69}
    markdown = page([section(make_study(tmp_path, accuracies))])
    assert "## two-arms" in markdown
    assert "6 of 6 trials are complete" in markdown
    assert "| (first) | 3 | 0.400 ± 0.497 |" in markdown
    assert "| num_proxies 8 | 3 | 0.500 ± 0.472 |" in markdown
    # The second arm minus the first; the trials reported no map error.
    assert "| - | **+0.100 ± 0.025** | - |" in markdown
    assert "| num_proxies 4 to 8 |  | 3 | **+0.100 ± 0.025** |" in markdown


def test_unfinished_trials_are_counted_and_a_single_seed_has_no_interval(tmp_path: Path) -> None:
    markdown = page([section(make_study(tmp_path, {(4, 0): 0.2}))])
    assert "1 of 6 trials are complete" in markdown
    assert "| (first) | 1 | 0.200 | 0.200 | - |" in markdown
    assert "Effect of changing one parameter" not in markdown
