"""What this machine refuses to train, told before anything starts instead of by every trial."""

from typing import Any

import torch

from proxytune.datasets import PreparedTask
from proxytune.models.errors import ConfigError
from proxytune.models.training import autocast_dtype
from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.trial.profile import trial_device


def check_device(spec: StudySpec) -> None:
    """Hold the study's precisions and GPUs to what this machine has; for a study whose trials run here.

    Raises:
        InputError: the key, its value and what is there.
    """
    gpu, there = spec.resources.gpu, torch.cuda.device_count()
    if gpu != "auto" and gpu > there:
        raise InputError(
            f"resources.gpu: {gpu:g} is more than this machine has ({there}); set resources.gpu to 0 or auto, or use "
            "machines with a GPU"
        )
    for precision in _values(spec, "training.precision"):
        try:
            autocast_dtype(str(precision), torch.device(trial_device(spec)))
        except ConfigError as error:
            raise InputError(f"training.{error}") from None


def check_data(spec: StudySpec, prepared: PreparedTask) -> None:
    """Hold the study's batch sizes to the rows that there are.

    Raises:
        InputError: a batch is larger than the training split.
    """
    rows = len(prepared.train)
    for size in _values(spec, "training.batch_size"):
        if size > rows:
            raise InputError(f"training.batch_size: {size} is more than the {rows} rows of {spec.task.name}")


def _values(spec: StudySpec, key: str) -> list[Any]:
    """The extreme values that trials may take of one key of training."""
    domain = spec.space.domains.get(key)
    return list(domain.corners()) if domain else [spec.training[key.partition(".")[2]]]
