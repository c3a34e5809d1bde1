"""Checks of this machine before a study starts, so that an error is reported once and not by every trial."""

from typing import Any

from proxytune.datasets import PreparedTask, open_prepared
from proxytune.datasets.prepare import prepared_folder
from proxytune.models.errors import ConfigError
from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.trial.data import cache_folder
from proxytune.tuning.trial.profile import trial_device

ANYWHERE = {"auto", "fp32"}
"""Precisions that every machine supports."""


def check_device(spec: StudySpec) -> None:
    """Check the study's precisions and GPUs against this machine, for a study whose trials run on this machine.

    Raises:
        InputError: with the key, its value and what this machine has.
    """
    gpu, precisions = spec.resources.gpu, _values(spec, "training.precision")
    if gpu in ("auto", 0) and ANYWHERE.issuperset(precisions):
        return
    import torch  # imported late: most studies need no check of the machine

    from proxytune.models.training import autocast_dtype

    there = torch.cuda.device_count()
    if gpu != "auto" and gpu > there:
        raise InputError(
            f"resources.gpu: {gpu:g} is more than this machine has ({there}); set resources.gpu to 0 or auto, or use "
            "machines with a GPU"
        )
    for precision in precisions:
        try:
            autocast_dtype(str(precision), torch.device(trial_device(spec)))
        except ConfigError as error:
            raise InputError(f"training.{error}") from None


def find_data(spec: StudySpec) -> str:
    """A description of the location of the study's data. Nothing is prepared.

    Raises:
        DataError: the data are missing or incomplete, or cannot be generated.
        InputError: a batch is larger than the training split, if its size is known.
    """
    task = spec.task
    folder = prepared_folder(task.name, **task.source, cache=cache_folder(), **task.options)
    if folder.exists():
        check_data(spec, open_prepared(folder))
        return f"data prepared in {folder}"
    if rows := task.options.get("train_examples"):
        _check_batches(spec, int(rows))
    return f"data will be prepared {task.described_source()}"


def check_data(spec: StudySpec, prepared: PreparedTask) -> None:
    """Check the study's batch sizes against the number of training rows.

    Raises:
        InputError: a batch is larger than the training split.
    """
    _check_batches(spec, len(prepared.train))


def _check_batches(spec: StudySpec, rows: int) -> None:
    for size in _values(spec, "training.batch_size"):
        if size > rows:
            raise InputError(f"training.batch_size: {size} is more than the {rows} rows of {spec.task.name}")


def _values(spec: StudySpec, key: str) -> list[Any]:
    """The extreme values of a key of `training` over all trials."""
    domain = spec.space.domains.get(key)
    return list(domain.corners()) if domain else [spec.training[key.partition(".")[2]]]
