"""TrialSpec: one training, complete; an export's `config.yaml`, and what every trial of a study gets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from proxytune.models.config import ModelConfig
from proxytune.models.errors import ConfigError
from proxytune.models.training_config import TrainingConfig, check_together
from proxytune.tuning.spec.protocol import with_protocol
from proxytune.tuning.spec.task import Task
from proxytune.tuning.spec.validation import Problems, Section, checked, known_keys, validated
from proxytune.tuning.spec.yaml_file import override, read_yaml

if TYPE_CHECKING:
    from proxytune.datasets import TaskInfo

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
FROM_TASK = {"vocab_size", "max_length", "num_classes", "num_documents"}
"""Fields of ModelConfig that the task decides, so a study file does not name them."""
MODEL_KEYS = {field.name for field in fields(ModelConfig)} - FROM_TASK
TRAINING_KEYS = {field.name for field in fields(TrainingConfig)} | {"seed"}


class Resources(Section):
    """What one trial takes, how many run at once (default: as many as fit), how often a lost one is retried."""

    cpu: int = Field(default=1, ge=1)  # cores, also torch's threads
    gpu: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"  # auto: one where the cluster has any
    max_concurrent: int | None = Field(default=None, ge=1)
    max_failures: int = Field(default=3, ge=0)


class TrialSpec(Section):
    """One training. Every default is filled in, so that a stored spec means the same under later versions."""

    name: str
    task: Task
    model: dict[str, Any] = Field(default={}, validate_default=True)  # ModelConfig's fields but the task's
    training: dict[str, Any] = Field(default={}, validate_default=True)  # TrainingConfig's fields and `seed`
    resources: Resources = Resources()

    @field_validator("name")
    @classmethod
    def _valid_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} must be 1 to 128 letters, digits, dots, dashes or underscores, a letter or digit first"
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
        seed = given.pop("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise Problems([f"training.seed: {seed!r} must be a whole number from 0 to 2^31 - 1"])
        task, model = others.data.get("task"), others.data.get("model")
        if task is None:
            return given
        config = checked(TrainingConfig, with_protocol(task.name, given), "training")
        if model is not None:
            try:
                check_together(ModelConfig(**task_fields(task.info()), **model), config)
            except ConfigError as error:
                raise Problems([f"training: {error}"]) from None
        return asdict(config) | {"seed": seed}

    @property
    def seed(self) -> int:
        """Decides weights, dropout and the order of the batches."""
        return int(self.training["seed"])

    def model_config_for(self, info: TaskInfo) -> ModelConfig:
        """The model's configuration on the task."""
        return ModelConfig(**task_fields(info), **self.model)

    def training_config(self) -> TrainingConfig:
        """The training's configuration."""
        return TrainingConfig(**{key: value for key, value in self.training.items() if key != "seed"})


def task_fields(info: TaskInfo) -> dict[str, Any]:
    """The fields of ModelConfig that the task decides."""
    return {name: getattr(info, name) for name in FROM_TASK}


def load_trial(path: Path, assignments: Iterable[str] = ()) -> TrialSpec:
    """The configuration of one training, as `proxytune export` writes it, with `key=value` overrides.

    Raises:
        InputError: what is wrong, with its key path.
    """
    return validated(TrialSpec, override(read_yaml(path), assignments), where=str(path))
