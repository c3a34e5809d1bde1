"""TrialSpec: one training, complete; an export's `config.yaml`, and what every trial of a study gets."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from proxytune.datasets import DataError, TaskInfo, task_info
from proxytune.models.config import ModelConfig
from proxytune.models.training import TrainingConfig, check_together
from proxytune.tuning.spec.earlier import completed
from proxytune.tuning.spec.validation import Section, checked, known_keys, validated
from proxytune.tuning.spec.yaml_file import override, read_yaml

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
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


class Task(BaseModel):
    """Which data: the task, where it lies, and the task's own options (max_length, train_examples, ...)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    root: Path | None = None  # the folder or archive with the data; none: generated where a generator exists

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: Path | None) -> Path | None:
        return None if root is None else root.expanduser().absolute()

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of `proxytune.datasets.prepare` beside name and root."""
        return dict(self.model_extra or {})

    def info(self) -> TaskInfo:
        """What the task is to a model; DataError for an unknown task or option."""
        return task_info(self.name, **self.options)


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
    model: dict[str, Any] = {}  # ModelConfig's fields except those that the task decides
    training: dict[str, Any] = {}  # TrainingConfig's fields and RunConfig's
    resources: Resources = Resources()

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("task"), dict):
            return values
        try:
            info = validated(Task, values["task"], "task").info()
        except DataError as error:
            raise ValueError(f"task: {error}") from None
        model = known_keys(values.get("model"), "model", MODEL_KEYS)
        training = known_keys(values.get("training"), "training", TRAINING_KEYS)
        run = {key: training.pop(key) for key in RUN_KEYS & training.keys()}
        config = checked(ModelConfig, task_fields(info) | model, "model")
        training_config = checked(TrainingConfig, training, "training")
        check_together(config, training_config)
        return values | {
            "model": {key: value for key, value in asdict(config).items() if key not in FROM_TASK},
            "training": asdict(training_config) | asdict(checked(RunConfig, run, "training")),
        }

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"name: {self.name!r} must be 1 to 128 letters, digits, dots, dashes or underscores, "
                "a letter or digit first"
            )
        return self

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
