"""What a trial tells its driver; it needs no torch, so that the driver needs none."""

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
    gpu_mib: float | None = None  # the most that it has held on its GPU so far
    profile: dict[str, float] | None = None  # measured before the training begins; then there is no step yet
    outcome: Outcome = Outcome.RUNNING
    reason: str = ""
    out_of_room: bool = False  # there is no room for a checkpoint, which no retry mends
    foreign: bool = False  # its checkpoints belong to something else, which no retry mends
    notes: tuple[str, ...] = ()  # what the operator should know, such as a checkpoint that was refused

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(**values | {"outcome": Outcome(values["outcome"]), "notes": tuple(values["notes"])})
