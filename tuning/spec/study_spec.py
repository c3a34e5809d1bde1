"""StudySpec: a complete study file, resolved and checked before anything starts."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self, get_args, get_type_hints

from pydantic import Field, field_validator, model_validator

from proxytune.models.config import ModelConfig
from proxytune.models.training_config import TrainingConfig
from proxytune.tuning.spec.consistency import contradictions
from proxytune.tuning.spec.constraints import Constraint, parse_constraints
from proxytune.tuning.spec.earlier import completed
from proxytune.tuning.spec.locations import check_uri, object_url
from proxytune.tuning.spec.rungs import rung_steps
from proxytune.tuning.spec.search import Search
from proxytune.tuning.spec.space import Scalar, SearchSpace
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.spec.validation import Problems, Section, validated

_HINTS = {f"model.{name}": hint for name, hint in get_type_hints(ModelConfig).items()} | {
    f"training.{name}": hint for name, hint in get_type_hints(TrainingConfig).items()
}
INTEGER_KEYS = frozenset(
    {"training.seed"} | {key for key, hint in _HINTS.items() if int in (hint, *get_args(hint))}
)

OF_THE_MACHINE = {"storage", "database", "checkpoints", "tracking"}
"""Keys with paths and addresses of the searching machine; records of a study that are passed on omit them."""


class Tracking(Section):
    """The MLflow store (default: an sqlite file beside the studies) and the experiment's name."""

    uri: str | None = None
    experiment: str = Field(default="proxytune", min_length=1)

    @field_validator("uri")
    @classmethod
    def _trackable(cls, uri: str | None) -> str | None:
        return uri if uri is None else check_uri(uri)  # refuses a password before it is stored anywhere


class StudySpec(TrialSpec):
    """A complete study file: all defaults are filled in and all keys are checked."""

    search: Search
    tracking: Tracking = Tracking()
    storage: Path = Path("studies")  # the folder of all studies: checkpoints, exports, sqlite files
    database: str | None = None  # SQLAlchemy URL of Optuna's storage; default: sqlite in the study's folder
    checkpoints: str | None = None  # s3://bucket/prefix or gs://...; default: in the study's folder

    @field_validator("storage", mode="before")
    @classmethod
    def _a_folder(cls, storage: Any) -> Any:
        if isinstance(storage, str) and "://" in storage:
            raise ValueError(
                f"{storage} is not a folder; the journal for MLflow (and sqlite, without `database`) needs one; "
                f"set storage to a folder of the driver, checkpoints: {storage}, and database: postgresql+psycopg://..."
            )
        return storage

    @field_validator("checkpoints")
    @classmethod
    def _an_object_store(cls, checkpoints: str | None) -> str | None:
        return None if checkpoints is None else object_url(checkpoints)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if lines := list(contradictions(self)):
            raise Problems(lines)
        return self

    @cached_property
    def space(self) -> SearchSpace:
        """The search space of `search.space`."""
        return SearchSpace(self.search.space, INTEGER_KEYS)

    @cached_property
    def constraints(self) -> tuple[Constraint, ...]:
        """`search.constraints`, parsed."""
        return parse_constraints(self.search.constraints)

    @property
    def fixed(self) -> dict[str, Any]:
        """The fixed values of `model` and `training` by dotted key; conditions may refer to them."""
        return {f"model.{key}": value for key, value in self.model.items()} | {
            f"training.{key}": value for key, value in self.training.items()
        }

    @property
    def folder(self) -> Path:
        """The folder of this study."""
        return self.storage.absolute() / self.name

    def trial(self, params: Mapping[str, Scalar]) -> TrialSpec:
        """The complete configuration of a trial with these searched values (dotted keys).

        Raises:
            InputError: the values are not a valid configuration.
        """
        values: dict[str, Any] = self.model_dump(include=set(TrialSpec.model_fields))
        for key, value in params.items():
            section, _, name = key.partition(".")
            values[section][name] = value
        return validated(TrialSpec, values, where=None)

    def rung_steps(self) -> tuple[int, ...]:
        """The steps at which trials are compared, lowest first, without the full budget."""
        return rung_steps(self.search.stopping, int(self.training["steps"]), int(self.training["eval_every"]))


def parse_study(values: Mapping[str, Any], where: str | None) -> StudySpec:
    """Build a study from plain values, such as a stored spec.

    Raises:
        InputError: one line per problem, each with its key path.
    """
    return validated(StudySpec, completed(values, where), where=where)
