"""pydantic's errors as lines for the user: key path, value, rule, nearest valid key."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.yaml_file import nearest

Model = TypeVar("Model", bound=BaseModel)
Config = TypeVar("Config")
_adapters: dict[
    type, TypeAdapter[Any]
] = {}  # cached: building one takes milliseconds, and every trial is checked
_UNION_MEMBER = re.compile(r"bool|int|float|str|none|constrained-\w+|\w+\[.*\]")
"""Parts that pydantic adds to a key path to name the member of a union that rejected the value."""

CALLED_HERE = {
    "pruner": "search.stopping",
    "pruning": "search.stopping",
    "scheduler": "search.stopping",
    "algorithm": "search.sampler",
    "n_trials": "search.trials",
    "num_trials": "search.trials",
    "direction": "search.objectives",
    "directions": "search.objectives",
    "metric": "search.objectives",
    "objective": "search.objectives",
    "values": "choice",
    "choices": "choice",
    "categorical": "choice",
    "min": "low",
    "max": "high",
    "lr": "training.learning_rate",
    "epochs": "training.steps",
    "max_steps": "training.steps",
    "warmup": "training.warmup_steps",
    "layers": "model.num_layers",
    "heads": "model.num_heads",
    "proxies": "model.num_proxies",
    "temperature": "model.contrastive_temperature",
}
"""Names used by other tools, and short names, with the corresponding key of a study file."""


class Section(BaseModel):
    """A section of a study file: frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problems(ValueError):
    """One or more problems of a section, one line each, beginning with the key path."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


class SpecError(InputError):
    """A study file or configuration is not valid.

    Attributes:
        lines: one line per problem, each beginning with its key path.
    """

    def __init__(self, lines: Sequence[str], where: str | None) -> None:
        self.lines = tuple(line.replace("\n", "\\n") for line in lines)  # a key may contain a line break
        super().__init__("\n".join(": ".join(filter(None, [where, line])) for line in self.lines))


def validated(kind: type[Model], values: Mapping[str, Any], where: str | None) -> Model:
    """Build a section from plain values.

    Raises:
        SpecError: one line per problem, each beginning with `where`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise SpecError(_all_lines(error, kind), where) from None
    except ArithmeticError as error:  # a number too large for a float
        raise InputError(": ".join(filter(None, [where, f"a number is out of range: {error}"]))) from None
    except InputError as error:  # from a nested section
        raise InputError(": ".join(filter(None, [where, str(error)]))) from None


def checked(config: type[Config], values: Mapping[str, Any], section: str) -> Config:
    """Build a dataclass with pydantic's type checks and its own checks, which raise ValueError.

    Raises:
        Problems: one line per problem, each with its key path below `section`.
    """
    try:
        adapter = _adapters.get(config) or _adapters.setdefault(config, TypeAdapter(config))
        return cast(Config, adapter.validate_python(values))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            path, message = ".".join([section, *_location(problem)]), _message(problem)
            lines.append(message if message.startswith(f"{section}.") else f"{path}: {message}")
        raise Problems(lines) from None


def known_keys(values: Any, section: str, known: set[str]) -> dict[str, Any]:
    """A copy of a free-form section, after a check of its keys; a missing section is empty.

    Raises:
        Problems: not a mapping, or unknown keys, each with the nearest known one.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise Problems([f"{section}: must be a mapping of keys to values, not {values!r}"])
    unknown = [key for key in values if key not in known]
    if unknown:
        raise Problems([f"{section}.{key}: unknown key; {right_key(str(key), known)}" for key in unknown])
    return dict(values)


def right_key(name: str, known: Iterable[str]) -> str:
    """A hint to append to "unknown key": the corresponding key of a study file, or the nearest known one."""
    known = list(known)
    called = CALLED_HERE.get(name)
    if called is not None and ("." in called or called in known):
        return f"use {called}"
    return nearest(name, known)


def _all_lines(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    """One line per problem; the rejections of a value by all members of a union are joined in one line."""
    lines: list[str] = []
    for problem in error.errors():
        for line in _lines(problem, kind):
            value, refused, rule = line.partition(" is refused: ")
            if refused and lines and lines[-1].startswith(value + refused):
                lines[-1] += f", or {rule}"
            elif line not in lines:
                lines.append(line)
    return lines


def _lines(problem: Any, kind: type[BaseModel]) -> Sequence[str]:
    raised = problem.get("ctx", {}).get("error")
    if isinstance(raised, Problems):
        return raised.lines
    location = _location(problem)
    message = _message(problem)
    if problem["type"] == "extra_forbidden":
        message = f"unknown key; {right_key(location[-1], _section_at(kind, location[:-1]).model_fields)}"
    return [": ".join(filter(None, [".".join(location), message]))]


def _location(problem: Any) -> list[str]:
    return [str(part) for part in problem["loc"] if not _UNION_MEMBER.fullmatch(str(part))]


def _section_at(kind: type[BaseModel], location: Sequence[str]) -> type[BaseModel]:
    """The section at a key path; a mapping's keys lead to the section of its values."""
    for part in location:
        if part in kind.model_fields:
            hint = kind.model_fields[part].annotation
            for candidate in (hint, *get_args(hint)):
                if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                    kind = candidate
    return kind


def _message(problem: Any) -> str:
    message: str = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] in ("value_error", "extra_forbidden"):
        return message
    return f"{problem['input']!r} is refused: {message[:1].lower()}{message[1:]}"
