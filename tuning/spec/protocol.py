"""Default training settings of each task: the protocol of Nyströmformer's LRA code.

The model's defaults are those of ModelConfig. Tasks outside LRA have values for a CPU.
Source: mlpen/Nystromformer, LRA/code/lra_config.py, except eval_every: the source evaluates 40 to 200 times per
training, here it is 20 times.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EVALUATIONS = 20


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Default training settings of one task."""

    steps: int
    warmup_steps: int
    batch_size: int = 32
    learning_rate: float = 1e-4


PROTOCOLS = {
    "listops": Protocol(steps=5000, warmup_steps=1000),
    "text": Protocol(steps=20000, warmup_steps=8000),
    "retrieval": Protocol(steps=30000, warmup_steps=800),
    "image": Protocol(steps=35000, warmup_steps=175, batch_size=256),
    "pathfinder": Protocol(steps=62400, warmup_steps=312, batch_size=256),
    "pathfinder64": Protocol(steps=62400, warmup_steps=312, batch_size=256),
    "pathx": Protocol(steps=62400, warmup_steps=312, batch_size=256),
    "listops-mini": Protocol(steps=1200, warmup_steps=120, learning_rate=1e-3),
    "recall": Protocol(steps=500, warmup_steps=50, learning_rate=2e-3),
}


def with_protocol(task: str, training: Mapping[str, Any]) -> dict[str, Any]:
    """The training settings, completed with the task's defaults. For an unknown task nothing is added.

    If only `steps` is given, the warm-up keeps its fraction of the steps and the number of evaluations stays the same.
    """
    protocol = PROTOCOLS.get(task)
    if protocol is None:
        return dict(training)
    steps = training.get("steps", protocol.steps)
    known = isinstance(steps, int) and steps > 0  # otherwise TrainingConfig reports the error
    warmup = protocol.warmup_steps * steps // protocol.steps if known else protocol.warmup_steps
    return {
        "steps": protocol.steps,
        "warmup_steps": warmup if warmup > 1 else 0,
        "batch_size": protocol.batch_size,
        "learning_rate": protocol.learning_rate,
        "eval_every": max(1, steps // EVALUATIONS) if known else 1,
    } | dict(training)
