"""A running trial: its worker's assignment and the state that the controller keeps while it runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from proxytune.tuning.journal.events import Resources, TrialStarted
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.checkpoints import Checkpoints


@dataclass(frozen=True)
class Assignment:
    """A trial to be run by a worker."""

    number: int
    spec: TrialSpec
    checkpoints: Checkpoints
    gpu: float | None = None  # its share of a GPU, if trials are packed
    efficiency: Path | None = None  # the folder of measured speeds, if the study uses them


@dataclass
class RunningTrial:
    """A trial that is assigned to a worker."""

    trial: optuna.Trial
    params: dict[str, Any]
    attempt: int
    spec: TrialSpec
    gpu: float | None = None
    step: int = 0
    reported: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def started(self, held: Resources, config: dict[str, Any] | None = None) -> TrialStarted:
        """The start event; `held` are the resources of every trial, except for a packed trial's share of a GPU."""
        if self.gpu is not None:
            held = held.model_copy(update={"gpu": self.gpu})
        return TrialStarted(
            trial=self.trial.number, params=self.params, attempt=self.attempt, config=config, resources=held
        )

    def end(self, outcome: Outcome, reason: str) -> dict[str, Any]:
        """The value stored in the END attribute."""
        return {"outcome": outcome, "reason": reason, "step": self.step, "metrics": self.metrics}
