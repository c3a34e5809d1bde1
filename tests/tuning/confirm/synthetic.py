"""Search and confirmation of a study without Ray, with synthetic metrics."""

import functools
from collections.abc import Callable
from pathlib import Path

from proxytune.tuning.confirm.candidates import candidates, fresh_seeds, without_seed
from proxytune.tuning.confirm.outcome import conclude
from proxytune.tuning.confirm.retraining import Plan, Race, retraining_spec, retrainings
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.store.confirmation import Confirmation
from proxytune.tuning.store.study import Study
from proxytune.tuning.trial.update import TrialUpdate

SPACE = {"model.num_proxies": {"choice": [2, 4, 8]}, "model.dropout": {"low": 0.0, "high": 0.3}}
SPEEDS = {"train_sequences_per_second": 100.0, "inference_sequences_per_second": 900.0}


def small_spec(storage: Path, **search: object) -> StudySpec:
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
        "storage": str(storage),
    }
    return parse_study(values, "test")


class Driver:
    """Opens a study as `run_study` does, without Ray. The metrics of its trials are given by the test."""

    def __init__(
        self, spec: StudySpec, make_controller: Callable[..., StudyController] = StudyController
    ) -> None:
        self.study = begin_study(spec)
        self.outbox = Outbox(spec.folder / "outbox")
        self.controller = make_controller(spec, self.study.optuna, self.study.storage, self.outbox)
        self.controller.reconcile()

    def close(self) -> None:
        """End like a killed driver: running trials stay running in the storage."""
        self.outbox.close()

    def report(self, number: int, step: int, accuracy: float, loss: float = 1.0) -> bool:
        metrics = {"val_accuracy": accuracy, "val_loss": loss, MEMORY: 3.0, "flops_per_sequence": 5.0}
        outcome = "complete" if step == 4 else "running"
        return self.controller.receive(number, TrialUpdate(step=step, metrics=metrics, outcome=outcome), {})

    def diverge(self, number: int) -> bool:
        return self.controller.receive(number, TrialUpdate(step=1, outcome="diverged", reason="NaN"), {})

    def finish(self, accuracy: Callable[[int], float]) -> Study:
        while (assignment := self.controller.next_trial()) is not None:
            self.report(assignment.number, 4, accuracy(assignment.number))
        self.close()
        return self.study


def searched(spec: StudySpec, accuracies: list[float]) -> Study:
    return Driver(spec).finish(lambda number: accuracies[number])


def plan_for(study: Study, top: int, seeds: int) -> Plan:
    chosen = candidates(study, top)
    return Plan({trial.number: without_seed(trial) for trial in chosen}, fresh_seeds(study, seeds))


def racing(study: Study, plan: Plan) -> Driver:
    return Driver(retraining_spec(study.spec, plan), functools.partial(Race, plan))


def point(driver: Driver, number: int) -> tuple[int, int]:
    attributes = driver.study.trials()[number].user_attrs
    return attributes["candidate"], attributes["seed"]


def concluded(study: Study, plan: Plan, trials, memory: dict[int, float] | None = None) -> Confirmation:
    efficiency = {
        number: SPEEDS | {MEMORY: (memory or {}).get(number, 3.0), "flops_per_sequence": 5.0}
        for number in plan.candidates
    }
    chosen = {trial.number: trial for trial in candidates(study, len(plan.candidates))}
    return conclude(study, chosen, plan, retrainings(trials), efficiency, len(trials))
