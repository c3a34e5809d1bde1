"""pydantic's errors as one line for the user: key path, value, rule, nearest right key."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.yaml_file import nearest

Model = TypeVar("Model", bound=BaseModel)
Config = TypeVar("Config")
_adapters: dict[type, TypeAdapter[Any]] = {}  # making one takes milliseconds, and a driver checks every trial
_UNION_MEMBER = re.compile(r"bool|int|float|str|none|constrained-\w+|\w+\[.*\]")
"""What pydantic adds to a key path to say which member of a union refused."""


class Section(BaseModel):
    """A part of a study file: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def validated(kind: type[Model], values: Mapping[str, Any], where: str | None) -> Model:
    """Build a section from plain values.

    Raises:
        InputError: the first thing that is wrong, beginning with `where`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(": ".join(filter(None, [where, _one_line(error, kind)]))) from None
    except InputError as error:  # from a section within
        raise InputError(": ".join(filter(None, [where, str(error)]))) from None


def checked(config: type[Config], values: Mapping[str, Any], section: str) -> Config:
    """Build a dataclass with pydantic's type checks; its own rules speak through their ValueError.

    Raises:
        ValueError: the first thing that is wrong, with its key path below `section`.
    """
    try:
        adapter = _adapters.get(config) or _adapters.setdefault(config, TypeAdapter(config))
        return cast(Config, adapter.validate_python(values))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([section, *map(str, first["loc"])])
        raise ValueError(f"{path}: {_message(first)}") from None


def known_keys(values: Any, section: str, known: set[str]) -> dict[str, Any]:
    """A copy of a free-form section whose keys are all known; a missing one is empty.

    Raises:
        ValueError: not a mapping, or an unknown key, with the nearest known one.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ValueError(f"{section}: must be a mapping of keys to values, not {values!r}")
    for key in values:
        if key not in known:
            raise ValueError(f"{section}.{key}: unknown key; {nearest(str(key), known)}")
    return dict(values)


def _one_line(error: ValidationError, kind: type[BaseModel]) -> str:
    problems = error.errors()
    first = problems[0]
    location = [str(part) for part in first["loc"] if not _UNION_MEMBER.fullmatch(str(part))]
    message = _message(first)
    if first["type"] == "extra_forbidden":
        message = f"unknown key; {nearest(location[-1], _section_at(kind, location[:-1]).model_fields)}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return ": ".join(filter(None, [".".join(location), message])) + more


def _section_at(kind: type[BaseModel], location: Sequence[str]) -> type[BaseModel]:
    """The section that a key path leads into; keys of a mapping lead to its values' section."""
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
