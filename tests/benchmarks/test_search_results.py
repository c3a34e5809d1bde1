"""The results page of a search: what it found, the confirmation and the cost."""

from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from proxytune.tuning.confirm.retraining import Plan, retraining_spec
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.store.confirmation import CONFIRMATION, Candidate, Confirmation, TestResult
from proxytune.tuning.store.study import Study
from tests.benchmarks.search_results import is_search, search_section

SPEC = {
    "name": "found",
    "task": {"name": "listops-mini"},
    "training": {"steps": 30, "warmup_steps": 3, "batch_size": 8, "learning_rate": 1e-3, "eval_every": 10},
    "search": {
        "space": {"model.num_proxies": {"low": 4, "high": 64, "log": True}},
        "sampler": {"name": "random"},
        "enqueue": [{"model.num_proxies": 64}],
        "trials": 3,
    },
}


def ended(accuracy: float, memory: float, step: int = 30) -> dict[str, Any]:
    """The end of a trial that trained for an hour per 30 steps; before step 30 it was stopped."""
    metrics = {"val_accuracy": accuracy, "train_memory_mib_per_sequence": memory, "seconds": 120.0 * step}
    return {"outcome": "complete" if step == 30 else "pruned", "reason": "", "step": step, "metrics": metrics}


def finish_enqueued(study: Study, accuracy: float, memory: float) -> None:
    trial = study.optuna.ask(fixed_distributions=dict(study.spec.space.distributions))
    trial.set_user_attr("end", ended(accuracy, memory))
    study.optuna.tell(trial, accuracy)


def add(study: Study, proxies: int, accuracy: float, memory: float, step: int = 30) -> None:
    """Add a trial that ended at `step`."""
    done = step == 30
    study.optuna.add_trial(
        optuna.trial.create_trial(
            params={"model.num_proxies": proxies},
            distributions={"model.num_proxies": study.spec.space.distributions["model.num_proxies"]},
            value=accuracy if done else None,
            state=TrialState.COMPLETE if done else TrialState.PRUNED,
            intermediate_values={step: accuracy},
            user_attrs={"end": ended(accuracy, memory, step)},
        )
    )  # fmt: skip


def make_search(folder: Path) -> tuple[StudySpec, Study]:
    spec = parse_study({**SPEC, "storage": str(folder)}, "test")
    study = begin_study(spec)
    finish_enqueued(study, 0.20, 9.0)
    add(study, 8, 0.10, 3.0, step=10)
    add(study, 16, 0.60, 4.0)
    return spec, study


def test_unconfirmed_search_shows_its_best_and_its_cost(tmp_path: Path) -> None:
    _, study = make_search(tmp_path)
    assert is_search(study)
    shown = search_section(study)
    assert "3 trials: 2 complete, 1 pruned." in shown
    assert "70 steps (2.3 full trainings), 2.33 core-hours" in shown
    assert "| 2, best of the search | num_proxies 16 | 0.6000 | - | - | 4.00 | - |" in shown
    assert "train_memory_mib_per_sequence: trial 2 (0.6, 4)." in shown, "trial 0 is dominated"
    assert "0.2000 (trial 0), 0.6000 (trial 2)" in shown
    assert "Winner" not in shown


def test_confirmation_shows_intervals_and_the_test_split(tmp_path: Path) -> None:
    spec, study = make_search(tmp_path)
    retraining = begin_study(retraining_spec(spec, Plan({2: {"model.num_proxies": 16}}, (7, 8))))
    for _ in range(2):
        add_seeded(retraining)
    candidate: dict[str, Any] = {"params": {"model.num_proxies": 16}, "eliminated_after": None, "reason": ""}
    best = Candidate(
        trial=2, search_value=0.6, seeds=(7, 8), values=(0.5, 0.52), mean=0.51, interval=(0.38, 0.64), metrics={},
        efficiency={"train_sequences_per_second": 69.0}, **candidate
    )  # fmt: skip
    reference = Candidate(
        trial=0, search_value=0.2, seeds=(7, 8), values=(0.3, 0.34), mean=0.32, interval=(0.1, 0.5), metrics={}, efficiency={}, **candidate
    )  # fmt: skip
    test = TestResult(
        trial=2, seeds=(7, 8), values=(0.4, 0.5), mean=0.45, interval=(0.3, 0.6), num_examples=2000, openings=1,
        opened_at="2026-11-30T00:00:00", opened_by="alice",
    )  # fmt: skip
    confirmation = Confirmation(
        study="found", objective="val_accuracy", direction="maximize", seeds=(7, 8), candidates=(best, reference), winner=2, tied=(2,),
        gap=0.09, retrainings=2, test=test,
    )  # fmt: skip
    study.optuna.set_user_attr(CONFIRMATION, confirmation.to_json())
    shown = search_section(study)
    assert "confirmation: 2 trainings, 2.00 core-hours" in shown
    assert (
        "| 2, best of the search, confirmed winner | num_proxies 16 | 0.6000 | 0.5100 [0.3800, 0.6400] | 2 | 4.00 | 69.0 |"
        in shown
    )
    assert "Optimism of its search score: +0.0900." in shown
    assert "Winner minus trial 0 (enqueued), paired by seed: +0.1900 [+0.0629, +0.3171], 2 seeds." in shown
    assert "Test split, opened 1 time: 0.4500 [0.3000, 0.6000] over 2 seeds, 2,000 examples." in shown


def add_seeded(study: Study) -> None:
    """Add a finished retraining of an hour."""
    distributions = study.spec.space.distributions
    study.optuna.add_trial(
        optuna.trial.create_trial(
            params={"model.num_proxies": 16, "training.seed": 7},
            distributions=distributions,
            value=0.5,
            user_attrs={"end": {"outcome": "complete", "reason": "", "step": 30, "metrics": {"val_accuracy": 0.5, "seconds": 3600.0}}},
        )
    )  # fmt: skip
