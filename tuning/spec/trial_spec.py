"""TrialSpec: the complete configuration of one training, stored as `config.yaml` in an export."""

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
"""Names of studies. A name has no dot, so that it cannot collide with a file beside the studies (mlflow.db and sqlite's
other files); `.confirm` marks the study that confirms another one."""
FROM_TASK = {"vocab_size", "max_length", "num_classes", "num_documents"}
"""Fields of ModelConfig that the task decides, so a study file does not name them."""
MODEL_KEYS = {field.name for field in fields(ModelConfig)} - FROM_TASK


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The keys of a study's `training` that do not belong to the optimisation (TrainingConfig).

    seed: of weights, dropout and the order of the batches.
    batch_order: uniform (the LRA protocol of Nyströmformer) or bucketed by length (datasets/batches.py).
    final_weights: the weights that the test split and an export use: those of the last step, or those of the evaluation
        with the highest validation accuracy, the earliest of equals (the protocol). best_val_accuracy and best_step are
        reported in both cases, and val_accuracy is always that of the last evaluation.
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
    """Resources per trial, trials at once (default: as many as fit), retries of a lost trial, and the priority among
    the studies of one cluster (higher first; default 0).
    """

    cpu: int = Field(default=1, ge=1)  # cores, also torch's threads
    gpu: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"  # auto: 1 if the cluster has GPUs, else 0
    max_concurrent: int | None = Field(default=None, ge=1)
    max_failures: int = Field(default=3, ge=0)
    priority: int = 0


class TrialSpec(Section):
    """One training. All defaults are filled in, so that a stored spec keeps its meaning under later versions."""

    name: str
    task: Task
    model: dict[str, Any] = Field(
        default={}, validate_default=True
    )  # fields of ModelConfig except the task's
    training: dict[str, Any] = Field(
        default={}, validate_default=True
    )  # fields of TrainingConfig and RunConfig
    resources: Resources = Resources()

    @field_validator("name")
    @classmethod
    def _valid_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} must be 1 to 112 letters, digits, dashes or underscores, beginning with a letter or digit; "
                "mlartifacts is reserved; take another name"
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
        if task is None:  # invalid, so the fields that it decides are unknown
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
        """sha256 of everything a training depends on: without the study's name, the resources and the data's location."""
        values = self.model_dump(mode="json", include={"task", "model", "training"})
        values["task"] |= {"files": None, "partial": False}  # the fingerprint identifies the data
        del values["task"]["root"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def seed(self) -> int:
        """Seed of weights, dropout and the order of the batches."""
        return self.run_config().seed

    def model_config_for(self, info: TaskInfo) -> ModelConfig:
        """The model's configuration for the task."""
        return ModelConfig(**task_fields(info), **self.model)

    def training_config(self) -> TrainingConfig:
        """The training's configuration."""
        return TrainingConfig(**{key: value for key, value in self.training.items() if key not in RUN_KEYS})

    def run_config(self) -> RunConfig:
        """The seed, the order of the batches and the choice of the final weights."""
        return RunConfig(**{key: self.training[key] for key in RUN_KEYS})


def task_fields(info: TaskInfo) -> dict[str, Any]:
    """The fields of ModelConfig that the task decides."""
    return {name: getattr(info, name) for name in FROM_TASK}


def load_trial(path: Path, assignments: Iterable[str] = ()) -> TrialSpec:
    """Read the configuration of one training, as written by `proxytune export`, with `key=value` overrides.

    Raises:
        InputError: one line per problem, each with its key path.
    """
    values = completed(override(read_yaml(path), assignments), where=str(path))
    return validated(TrialSpec, values, where=str(path))
