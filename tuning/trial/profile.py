"""Predicted costs of a configuration: the metrics that need no training (models/footprint.py)."""

import json
from functools import lru_cache
from typing import Any

from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.importing import importing

_COST_TRAINING = {"batch_size", "batch_order", "micro_batch_size", "precision", "compile"}
"""Keys of `training` that affect the cost of a step. Steps, schedule, rates and seed do not."""
_ON_OR_OFF = ("dropout", "attention_dropout", "contrastive_weight")
"""Fields of the model that affect the cost only by being zero or not."""


def cost_spec(spec: TrialSpec) -> dict[str, Any]:
    """The part of a trial that determines its memory, FLOPs and speed.

    It does not contain the data's location and the temperature, and dropout only as present or absent.
    """
    model = {key: value for key, value in spec.model.items() if key != "contrastive_temperature"}
    model |= {key: 0.1 for key in _ON_OR_OFF if model[key]}
    return {
        "task": spec.task.model_dump(mode="json", exclude={"root", "files", "partial"}),
        "model": model,
        "training": {key: value for key, value in spec.training.items() if key in _COST_TRAINING},
    }


def trial_device(spec: TrialSpec) -> str:
    """Device of the trial in this process: cuda if it is available and the trial may use it, else cpu."""
    import torch  # imported here: `cost_spec` must not import it

    return "cuda" if spec.resources.gpu != 0 and torch.cuda.is_available() else "cpu"


def predicted_profile(spec: TrialSpec, device: str = "cpu") -> dict[str, float]:
    """parameters, flops_per_sequence, train_memory_mib_per_sequence of a trial on cpu or cuda; cached by its costs."""
    return dict(_predict(json.dumps(cost_spec(spec)), device))


@lru_cache(maxsize=1024)
def _predict(costs: str, device: str) -> dict[str, float]:
    with importing():
        from proxytune.models.footprint import footprint

    schedule = {"steps": 1, "warmup_steps": 0, "learning_rate": 1e-3, "eval_every": 1}
    values = json.loads(costs)
    spec = TrialSpec.model_validate(
        {"name": "profile"} | values | {"training": values["training"] | schedule}
    )
    training = spec.training_config()
    cost = footprint(
        spec.model_config_for(spec.task.info()),
        batch_size=training.micro_batch_size or training.batch_size,
        precision=training.precision,
        device=device,
    )
    return {
        "parameters": float(cost.parameters),
        "flops_per_sequence": float(cost.inference_flops_per_sequence),
        "train_memory_mib_per_sequence": cost.training_mib_per_sequence,
    }
