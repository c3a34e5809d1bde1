"""The study file: what is trained and how it is searched, resolved and checked before anything starts."""

import importlib.resources
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_type_hints

from pydantic import Field, field_validator, model_validator

from proxytune.models.config import ModelConfig
from proxytune.models.training import TrainingConfig
from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.constraints import parse_constraint
from proxytune.tuning.spec.earlier import completed
from proxytune.tuning.spec.locations import check_uri, object_url
from proxytune.tuning.spec.metrics import METRICS
from proxytune.tuning.spec.space import Domain, Scalar, SearchSpace
from proxytune.tuning.spec.trial_spec import MODEL_KEYS, TRAINING_KEYS, TrialSpec
from proxytune.tuning.spec.validation import Section, validated
from proxytune.tuning.spec.yaml_file import nearest, override, read_yaml

SEARCHABLE = {f"model.{key}" for key in MODEL_KEYS} | {f"training.{key}" for key in TRAINING_KEYS}
_HINTS = {f"model.{name}": hint for name, hint in get_type_hints(ModelConfig).items()} | {
    f"training.{name}": hint for name, hint in get_type_hints(TrainingConfig).items()
}
INTEGER_KEYS = frozenset(
    {"training.seed"} | {key for key, hint in _HINTS.items() if int in (hint, *get_args(hint))}
)
MAX_RUNGS = 100_000


class Sampler(Section):
    """Who proposes: one of Optuna's samplers."""

    name: Literal["random", "grid", "qmc", "tpe", "gp", "cmaes", "nsga2"] = "tpe"
    seed: int = Field(default=0, ge=0, lt=2**31)


class Stopping(Section):
    """Which trials end early.

    asha: rungs at min_steps * reduction_factor^k, one in reduction_factor goes on. hyperband: trials take turns on
    brackets that begin one rung later each, the last one without any rung. median: at every evaluation from min_steps on.
    """

    name: Literal["none", "asha", "hyperband", "median"] = "asha"
    min_steps: int | None = Field(default=None, gt=0)  # default: training.eval_every
    reduction_factor: int = Field(default=3, ge=2)


class WarmStartSource(Section):
    """An earlier study whose best configurations go first and whose trials inform the sampler (search/warm_start.py)."""

    study: str
    top: int = Field(default=8, ge=0)  # how many of its configurations go first
    storage: Path | None = None  # where it lies; default: where this study does
    database: str | None = None

    @field_validator("storage")
    @classmethod
    def _absolute(cls, storage: Path | None) -> Path | None:
        return None if storage is None else storage.expanduser().absolute()


class Search(Section):
    """The space, what is optimised under which constraints, by whom, and for how long."""

    space: dict[str, Domain] = Field(min_length=1)
    objectives: dict[str, Literal["maximize", "minimize"]] = Field(
        default={"val_accuracy": "maximize"}, min_length=1
    )
    constraints: dict[str, str] = {}  # metric: "<= number" or ">= number"
    sampler: Sampler = Sampler()
    stopping: Stopping = Stopping()
    trials: int = Field(ge=1)  # the budget; the two below end the study earlier
    max_seconds: float | None = Field(default=None, gt=0)  # of running, over all drivers
    max_steps: int | None = Field(default=None, gt=0)  # of training, over all trials
    enqueue: tuple[dict[str, Scalar], ...] = ()
    warm_start: WarmStartSource | None = None  # after what is enqueued


class Tracking(Section):
    """Where MLflow is (default: a sqlite file beside the studies) and the experiment's name."""

    uri: str | None = None
    experiment: str = Field(default="proxytune", min_length=1)

    @field_validator("uri")
    @classmethod
    def _trackable(cls, uri: str | None) -> str | None:
        return uri if uri is None else check_uri(uri)  # before a password in it is stored anywhere


class StudySpec(TrialSpec):
    """A whole study file, resolved: every default is filled in and every key has been checked."""

    search: Search
    tracking: Tracking = Tracking()
    storage: Path = Path("studies")  # the folder of all studies: checkpoints, exports, sqlite files
    database: str | None = (
        None  # Optuna's storage as an SQLAlchemy URL; default: sqlite in the study's folder
    )
    checkpoints: str | None = None  # s3://bucket/prefix or gs://...; default: in the study's folder

    @field_validator("storage", mode="before")
    @classmethod
    def _a_folder(cls, storage: Any) -> Any:
        if isinstance(storage, str) and "://" in storage:
            raise ValueError(
                f"{storage} is no folder, and the journal for MLflow (and sqlite, without `database`) needs one; "
                f"keep storage a folder of the driver and set checkpoints: {storage}, database: postgresql+psycopg://..."
            )
        return storage

    @field_validator("checkpoints")
    @classmethod
    def _an_object_store(cls, checkpoints: str | None) -> str | None:
        return None if checkpoints is None else object_url(checkpoints)

    @model_validator(mode="after")
    def _searchable(self) -> Self:
        for key in self.search.space:
            if key not in SEARCHABLE and not key.startswith("task."):
                raise ValueError(f"search.space: unknown key {key}; {nearest(key, SEARCHABLE)}")
        for metric in [*self.search.objectives, *self.search.constraints]:
            if metric not in METRICS:
                raise ValueError(f"search: unknown metric {metric}; {nearest(metric, METRICS)}")
        for metric, rule in self.search.constraints.items():
            parse_constraint(metric, rule)
        for position, params in enumerate(self.search.enqueue):
            for key, value in params.items():
                domain = self.search.space.get(key)
                if domain is None:
                    raise ValueError(f"search.enqueue[{position}]: {key} is not in search.space")
                if not domain.contains(value):
                    raise ValueError(f"search.enqueue[{position}]: {key}={value} is outside its domain")
        self._check_conditions()
        try:
            space = self.space
        except ValueError as error:
            raise ValueError(f"search.space.{error}") from None
        for key, domain in space.domains.items():
            for value in domain.corners():
                try:
                    self.trial({key: value})
                except InputError as error:
                    raise ValueError(f"search.space.{key}: {value} cannot be built: {error}") from None
        self.rung_steps()
        self._check_sampler()
        warm_start = self.search.warm_start
        urls = {"database": self.database, "search.warm_start.database": warm_start and warm_start.database}
        for key, url in urls.items():
            if url and re.search(r"//[^/@]*:[^/@]*@", url):
                raise ValueError(
                    f"{key}: a password in the URL would be stored; use PGPASSFILE or PGPASSWORD"
                )
        return self

    def _check_conditions(self) -> None:
        """Every `when` names a key that there is and values that it can have, or its key would never be searched."""
        fixed = self.fixed
        for key, domain in self.search.space.items():
            for other, wanted in domain.when.items():
                where = f"search.space.{key}.when.{other}"
                if other not in self.search.space and other not in fixed:
                    raise ValueError(f"{where}: unknown key; {nearest(other, [*self.search.space, *fixed])}")
                allowed = wanted if isinstance(wanted, tuple) else (wanted,)
                searched = self.search.space.get(other)
                for value in allowed:
                    if searched is not None and not searched.contains(value):
                        raise ValueError(f"{where}: {value} is outside the domain of {other}")
                if searched is None and fixed[other] not in allowed:
                    raise ValueError(
                        f"{where}: {other} is {fixed[other]} in every trial, so {key} is never searched"
                    )

    def _check_sampler(self) -> None:
        name, domains = self.search.sampler.name, self.search.space
        if name in ("qmc", "cmaes"):
            for key, domain in domains.items():
                if domain.when:
                    raise ValueError(
                        f"search.space.{key}: {name} takes no conditional keys; use tpe, random or grid"
                    )
        if name in ("cmaes", "gp") and len(self.search.objectives) > (1 if name == "cmaes" else 2):
            raise ValueError(f"search.sampler.name: {name} takes fewer objectives; use tpe or nsga2")
        if name == "grid":
            for key, domain in domains.items():
                if domain.choice is None:
                    raise ValueError(
                        f"search.space.{key}: a grid needs choice: [...], not low and high; use another sampler"
                    )
            size = len(self.space.grid(self.fixed))
            if self.search.trials > size:
                raise ValueError(f"search.trials: {self.search.trials} is more than the grid's {size} points")

    @cached_property
    def space(self) -> SearchSpace:
        """The domains as Optuna's distributions."""
        return SearchSpace(self.search.space, INTEGER_KEYS)

    @property
    def fixed(self) -> dict[str, Any]:
        """The study's own values by dotted keys, which conditions may name."""
        return {f"model.{key}": value for key, value in self.model.items()} | {
            f"training.{key}": value for key, value in self.training.items()
        }

    @property
    def folder(self) -> Path:
        """Everything that belongs to this study alone."""
        return self.storage.absolute() / self.name

    def trial(self, params: Mapping[str, Scalar]) -> TrialSpec:
        """The complete configuration of a trial with these searched values (dotted keys).

        Raises:
            InputError: the values do not fit together.
        """
        values: dict[str, Any] = self.model_dump(include=set(TrialSpec.model_fields))
        for key, value in params.items():
            section, _, name = key.partition(".")
            values[section][name] = value
        return validated(TrialSpec, values, where=None)

    def rung_steps(self) -> tuple[int, ...]:
        """The steps at which trials are compared, lowest first; the full budget is none of them."""
        stopping, steps = self.search.stopping, int(self.training["steps"])
        if stopping.name == "none":
            return ()
        rung = stopping.min_steps or int(self.training["eval_every"])
        if rung >= steps:
            raise ValueError(
                f"search.stopping.min_steps: {rung} leaves no rung below training.steps {steps}; "
                "lower it or set search.stopping.name=none"
            )
        if stopping.name == "median":
            every = int(self.training["eval_every"])
            if steps // every > MAX_RUNGS:
                raise ValueError(
                    f"training.eval_every: {every} makes more than {MAX_RUNGS:,} evaluations a trial, and median "
                    "compares at each of them; evaluate less often"
                )
            return tuple(step for step in range(every, steps, every) if step >= rung)
        rungs = []
        while rung < steps:
            rungs.append(rung)
            rung *= stopping.reduction_factor
        return tuple(rungs)


def shipped_studies() -> dict[str, Path]:
    """The studies that come with the package, by name."""
    folder = importlib.resources.files("proxytune.tuning.studies")
    return {path.stem: path for path in sorted(Path(str(folder)).rglob("*.yaml"))}


def read_study(name_or_path: str, assignments: Iterable[str] = ()) -> StudySpec:
    """The study of a file, or a shipped one by its name, with `key=value` overrides.

    Raises:
        InputError: what is wrong, with its key path.
    """
    path = Path(name_or_path)
    shipped = shipped_studies()
    if not path.exists() and name_or_path in shipped:
        path = shipped[name_or_path]
    elif not path.exists():
        raise InputError(
            f"{name_or_path}: no such file, and no shipped study of that name; {nearest(name_or_path, shipped)}"
        )
    return validated(StudySpec, override(read_yaml(path), assignments), where=str(path))


def parse_study(values: Mapping[str, Any], where: str) -> StudySpec:
    """A study from plain values, such as a stored spec.

    Raises:
        InputError: what is wrong, with its key path.
    """
    return validated(StudySpec, completed(values, where), where=where)
