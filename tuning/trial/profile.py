"""What a configuration costs before it runs: the metrics that depend on no training (models/footprint.py)."""

from functools import lru_cache

from proxytune.models.footprint import footprint
from proxytune.tuning.trial_spec import TrialSpec


def predicted_profile(spec: TrialSpec) -> dict[str, float]:
    """parameters, flops_per_sequence, train_memory_mib_per_sequence of a trial; cached by what they depend on."""
    return dict(_predict(spec.model_dump_json(include={"task", "model", "training"})))


@lru_cache(maxsize=1024)
def _predict(spec_json: str) -> dict[str, float]:
    spec = TrialSpec.model_validate_json('{"name": "profile",' + spec_json.removeprefix("{"))
    training = spec.training_config()
    cost = footprint(
        spec.model_config_for(spec.task.info()),
        batch_size=training.micro_batch_size or training.batch_size,
        precision=training.precision,
    )
    return {
        "parameters": float(cost.parameters),
        "flops_per_sequence": float(cost.inference_flops_per_sequence),
        "train_memory_mib_per_sequence": cost.training_mib_per_sequence,
    }
