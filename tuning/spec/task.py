"""The `task` section of a study: the task, the location of its data, and the task's own options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

if TYPE_CHECKING:  # imported where a task is looked up: key names alone must not import numpy and pyarrow
    from proxytune.datasets import TaskInfo


class Task(BaseModel):
    """The data: the task, its location, and the task's own options (max_length, train_examples, ...)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    root: Path | None = None  # folder or archive with the data; None: generated, if the task has a generator
    files: dict[Literal["train", "validation", "test"], Path] | None = (
        None  # file of each split, instead of root
    )
    partial: bool = False  # whether incomplete data may be used

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: Path | None) -> Path | None:
        return None if root is None else root.expanduser().absolute()

    @field_validator("files")
    @classmethod
    def _all_absolute(cls, files: dict[str, Path] | None) -> dict[str, Path] | None:
        return {split: path.expanduser().absolute() for split, path in files.items()} if files else None

    @property
    def source(self) -> dict[str, Any]:
        """The keyword arguments of `proxytune.datasets.prepare` that locate the data."""
        return {"root": self.root, "files": self.files, "partial": self.partial}

    @property
    def options(self) -> dict[str, Any]:
        """The task's own options: the other keyword arguments of `prepare`."""
        return dict(self.model_extra or {})

    def info(self) -> TaskInfo:
        """Vocabulary, lengths and classes of the task.

        Raises:
            DataError: unknown task or option.
        """
        from proxytune.datasets import task_info

        return task_info(self.name, **self.options)

    def described_source(self) -> str:
        """Description of the data's source, for messages."""
        if self.files:
            return f"from {', '.join(map(str, self.files.values()))}"
        return f"from {self.root}" if self.root else "by its generator"
