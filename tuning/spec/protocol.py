"""What each task is trained with where a study file does not say: the protocol of Nyströmformer's LRA code.

The model's defaults are ModelConfig's own. Tasks outside LRA have values for a CPU.
Source: mlpen/Nystromformer, LRA/code/lra_config.py, but for eval_every: it evaluates 40 to 200 times a training, here it
is 20 times.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EVALUATIONS = 20


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The training of one task."""

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
    """The training with the task's values for what it leaves out; another task's keys stay missing.

    The warm-up keeps its share of the steps, and evaluations their number, where only `steps` is given.
    """
    protocol = PROTOCOLS.get(task)
    if protocol is None:
        return dict(training)
    steps = training.get("steps", protocol.steps)
    known = isinstance(steps, int) and steps > 0  # otherwise TrainingConfig says what is wrong with it
    warmup = protocol.warmup_steps * steps // protocol.steps if known else protocol.warmup_steps
    return {
        "steps": protocol.steps,
        "warmup_steps": warmup if warmup > 1 else 0,
        "batch_size": protocol.batch_size,
        "learning_rate": protocol.learning_rate,
        "eval_every": max(1, steps // EVALUATIONS) if known else 1,
    } | dict(training)
