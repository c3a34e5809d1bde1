"""TrialSpec: the complete configuration of one training; `config.yaml` of an export holds one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from proxytune.models.config import ModelConfig
from proxytune.models.errors import ConfigError
from proxytune.models.training_config import TrainingConfig, check_together
from proxytune.tuning.spec.earlier import completed
from proxytune.tuning.spec.protocol import with_protocol
from proxytune.tuning.spec.task import Task
from proxytune.tuning.spec.validation import Problems, Section, checked, known_keys, validated
from proxytune.tuning.spec.yaml_file import override, read_yaml

if TYPE_CHECKING:
    from proxytune.datasets import TaskInfo

NAME = re.compile(r"(?!mlartifacts$)[A-Za-z0-9][A-Za-z0-9_-]{0,111}(\.confirm)?")
"""Names of studies. A name has no dot, so that no study takes the place of a file beside the studies (mlflow.db and what
sqlite keeps beside it); `.confirm` marks the study that confirms another one."""
FROM_TASK = {"vocab_size", "max_length", "num_classes", "num_documents"}
"""Fields of ModelConfig that the task decides, so a study file does not name them."""
MODEL_KEYS = {field.name for field in fields(ModelConfig)} - FROM_TASK


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The keys of a study's `training` that are no property of the optimisation (TrainingConfig).

    seed: decides weights, dropout and the order of the batches.
    batch_order: uniform (the LRA protocol of Nyströmformer) or bucketed by length (datasets/batches.py).
    final_weights: what the test split and an export use: those of the last step, or those of the evaluation with the
        highest validation accuracy, the earliest of equals (the protocol). best_val_accuracy and best_step are reported
        in both cases, and val_accuracy is always the last evaluation's.
    """

    seed: int = 0
    batch_order: Literal["uniform", "bucketed"] = "uniform"
    final_weights: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ValueError(f"training.seed: {self.seed!r} must be a whole number from 0 to 2^31 - 1")


RUN_KEYS = {field.name for field in fields(RunConfig)}
TRAINING_KEYS = {field.name for field in fields(TrainingConfig)} | RUN_KEYS


class Resources(Section):
    """What one trial takes, how many run at once (default: as many as fit), how often a lost one is retried, and which
    studies of the same cluster come first (higher; default 0).
    """

    cpu: int = Field(default=1, ge=1)  # cores, also torch's threads
    gpu: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"  # auto: one where the cluster has any
    max_concurrent: int | None = Field(default=None, ge=1)
    max_failures: int = Field(default=3, ge=0)
    priority: int = 0


class TrialSpec(Section):
    """One training. Every default is filled in, so that a stored spec means the same under later versions."""

    name: str
    task: Task
    model: dict[str, Any] = Field(default={}, validate_default=True)  # ModelConfig's fields but the task's
    training: dict[str, Any] = Field(
        default={}, validate_default=True
    )  # TrainingConfig's fields and RunConfig's
    resources: Resources = Resources()

    @field_validator("name")
    @classmethod
    def _valid_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} must be 1 to 112 letters, digits, dashes or underscores, a letter or digit first, "
                "and not mlartifacts, which lies beside the studies; take another name"
            )
        return name

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: Task) -> Task:
        from proxytune.datasets import DataError

        try:
            task.info()
        except DataError as error:
            raise ValueError(str(error)) from None
        return task

    @field_validator("model", mode="before")
    @classmethod
    def _complete_model(cls, model: Any, others: ValidationInfo) -> dict[str, Any]:
        given = known_keys(model, "model", MODEL_KEYS)
        task = others.data.get("task")
        if task is None:  # wrong itself, and what the model needs of it is not known
            return given
        config = checked(ModelConfig, task_fields(task.info()) | given, "model")
        return {key: value for key, value in asdict(config).items() if key not in FROM_TASK}

    @field_validator("training", mode="before")
    @classmethod
    def _complete_training(cls, training: Any, others: ValidationInfo) -> dict[str, Any]:
        given = known_keys(training, "training", TRAINING_KEYS)
        run = checked(RunConfig, {key: given.pop(key) for key in RUN_KEYS & given.keys()}, "training")
        task, model = others.data.get("task"), others.data.get("model")
        if task is None:
            return given | asdict(run)
        config = checked(TrainingConfig, with_protocol(task.name, given), "training")
        if model is not None:
            try:
                check_together(ModelConfig(**task_fields(task.info()), **model), config)
            except ConfigError as error:
                raise Problems([f"training: {error}"]) from None
        return asdict(config) | asdict(run)

    @property
    def digest(self) -> str:
        """sha256 of all that a training depends on: without the study's name, the resources and the location of the data."""
        values = self.model_dump(mode="json", include={"task", "model", "training"})
        values["task"].pop("root", None)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def seed(self) -> int:
        """Decides weights, dropout and the order of the batches."""
        return self.run_config().seed

    def model_config_for(self, info: TaskInfo) -> ModelConfig:
        """The model's configuration on the task."""
        return ModelConfig(**task_fields(info), **self.model)

    def training_config(self) -> TrainingConfig:
        """The training's configuration."""
        return TrainingConfig(**{key: value for key, value in self.training.items() if key not in RUN_KEYS})

    def run_config(self) -> RunConfig:
        """The seed, the order of the batches and which weights count."""
        return RunConfig(**{key: self.training[key] for key in RUN_KEYS})


def task_fields(info: TaskInfo) -> dict[str, Any]:
    """The fields of ModelConfig that the task decides."""
    return {name: getattr(info, name) for name in FROM_TASK}


def load_trial(path: Path, assignments: Iterable[str] = ()) -> TrialSpec:
    """The configuration of one training, as `proxytune export` writes it, with `key=value` overrides.

    Raises:
        InputError: what is wrong, with its key path.
    """
    values = completed(override(read_yaml(path), assignments), where=str(path))
    return validated(TrialSpec, values, where=str(path))
