"""The `search` section of a study: search space, objectives, sampler, stopping rule and budget."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from proxytune.tuning.spec.constraints import parse_constraint
from proxytune.tuning.spec.metrics import METRICS, Direction
from proxytune.tuning.spec.space import Domain, Scalar
from proxytune.tuning.spec.trial_spec import MODEL_KEYS, TRAINING_KEYS
from proxytune.tuning.spec.validation import Problems, Section, right_key
from proxytune.tuning.spec.yaml_file import nearest

SEARCHABLE = {f"model.{key}" for key in MODEL_KEYS} | {f"training.{key}" for key in TRAINING_KEYS}


class Sampler(Section):
    """The sampler: one of Optuna's, or `curve`, which learns from all learning curves (search/curve_sampler.py)."""

    name: Literal["random", "grid", "qmc", "tpe", "gp", "cmaes", "nsga2", "curve"] = "tpe"
    seed: int = Field(default=0, ge=0, lt=2**31)


class Stopping(Section):
    """The rule by which trials are stopped early.

    asha: rungs at min_steps * reduction_factor^k; one in reduction_factor trials continues. hyperband: trials are assigned
    in turn to brackets, each starting one rung later, the last without rungs. median: at every evaluation from min_steps on.
    curve: rungs like asha; a trial stops if all learning curves give it less than a 5 % chance of becoming the best
    (search/curve_stopping.py).
    """

    name: Literal["none", "asha", "hyperband", "median", "curve"] = "asha"
    min_steps: int | None = Field(default=None, gt=0)  # default: training.eval_every
    reduction_factor: int = Field(default=3, ge=2)


class WarmStartSource(Section):
    """An earlier study, of a storage or of the curve bank that comes with the package.

    Its best configurations are tried first, its trials inform the sampler and the stopping rule (search/warm_start.py).
    """

    study: str | None = None
    bank: str | None = None  # instead of study: the name of a study of the bank
    top: int = Field(default=8, ge=0)  # number of its configurations that are tried first
    storage: Path | None = None  # the storage folder of `study`; default: that of this study
    database: str | None = None

    @field_validator("storage")
    @classmethod
    def _absolute(cls, storage: Path | None) -> Path | None:
        return None if storage is None else storage.expanduser().absolute()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.study is None) == (self.bank is None):
            raise Problems(["search.warm_start: name one of study and bank"])
        for key in ("storage", "database") if self.bank else ():
            if getattr(self, key) is not None:
                raise Problems([f"search.warm_start.{key}: bank {self.bank} has none; remove the key"])
        return self


class StopWhen(Section):
    """When to end the study early: no new trial starts, and running trials finish (search/enough.py)."""

    expected_gain_below: float = Field(gt=0)  # in the objective's unit


class Search(Section):
    """The search space, objectives, constraints, sampler, stopping rule and budget."""

    space: dict[str, Domain] = Field(min_length=1)
    objectives: dict[str, Direction] = Field(default={"val_accuracy": "maximize"}, min_length=1)
    constraints: dict[str, str] = {}  # metric: "<= number" or ">= number"
    sampler: Sampler = Sampler()
    stopping: Stopping = Stopping()
    trials: int = Field(ge=1)  # the budget; the two below end the study earlier
    max_seconds: float | None = Field(default=None, gt=0)  # run time, summed over all drivers
    max_steps: int | None = Field(default=None, gt=0)  # training steps, summed over all trials
    stop_when: StopWhen | None = None  # ends the study before its budget is spent
    enqueue: tuple[dict[str, Scalar], ...] = ()
    warm_start: WarmStartSource | None = None  # its configurations follow the enqueued ones

    @field_validator("sampler", "stopping", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("space")
    @classmethod
    def _searchable(cls, space: dict[str, Domain]) -> dict[str, Domain]:
        unknown = [key for key in space if key not in SEARCHABLE]
        if unknown:
            raise Problems([f"search.space.{key}: unknown key; {_full_key(key)}" for key in unknown])
        return space

    @field_validator("objectives", "constraints")
    @classmethod
    def _known_metrics(cls, rules: dict[str, str], field: ValidationInfo) -> dict[str, str]:
        section = f"search.{field.field_name}"
        lines = [
            f"{section}.{metric}: unknown metric; {nearest(metric, METRICS)}"
            for metric in rules
            if metric not in METRICS
        ]
        for metric, rule in rules.items() if field.field_name == "constraints" else ():
            try:
                parse_constraint(metric, rule)
            except ValueError as error:
                lines.append(str(error))
        if lines:
            raise Problems(lines)
        return rules


def _full_key(key: str) -> str:
    """A hint to append to "unknown key"; finds keys that were written without their section."""
    full = [known for known in SEARCHABLE if known.endswith(f".{key}")]
    return f"did you mean {full[0]}?" if full else right_key(key, SEARCHABLE)
