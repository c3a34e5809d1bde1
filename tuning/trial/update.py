"""The result that a trial reports to its driver. Does not import torch, so that the driver does not either."""

import json
from dataclasses import asdict, dataclass
from typing import Self

from proxytune.tuning.spec.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class TrialUpdate:
    """The result of one `advance`: the step, metrics if an evaluation was due, and the outcome.

    outcome is running, complete, diverged, out_of_memory or failed; reason says why it failed.
    """

    step: int
    metrics: dict[str, float] | None = None
    gpu_mib: float | None = None  # peak memory on its GPU so far
    profile: dict[str, float] | None = None  # measured before the training starts, at step 0
    outcome: Outcome = Outcome.RUNNING
    reason: str = ""
    out_of_room: bool = False  # the disk is full, so a checkpoint cannot be written; not retried
    foreign: bool = False  # its checkpoints belong to another training; not retried
    notes: tuple[str, ...] = ()  # warnings for the user, such as a refused checkpoint

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(**values | {"outcome": Outcome(values["outcome"]), "notes": tuple(values["notes"])})
