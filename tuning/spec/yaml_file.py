"""Reading of untrusted YAML files: YAML 1.2, no anchors, bounded size and depth, errors with line numbers.

Unlike YAML 1.1, YAML 1.2 reads 1e-4 as a number, no and on as strings, and 010 as 10.
"""

import difflib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

from proxytune.tuning.errors import InputError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 100_000


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        InputError: no such file, not YAML, duplicate keys, aliases, too large or too deep, not a mapping.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: {size:,} bytes exceed the limit of a study file ({MAX_BYTES:,})")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    value = parse_yaml(text, where=str(path))
    if not isinstance(value, dict):
        raise InputError(f"{path}: contains {type(value).__name__}, not a mapping of keys to values")
    return value


def parse_yaml(text: str, *, where: str) -> Any:
    """Parse YAML text into plain Python types.

    Raises:
        InputError: as in `read_yaml`. The message begins with `where`.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        _refuse_bombs(yaml.parse(text), where)
        return yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{where}{line}: {problem}") from None
    except (
        ArithmeticError,
        LookupError,
        ValueError,
        RecursionError,
    ) as error:  # of an explicit tag, such as !!int ""
        raise InputError(f"{where}: {type(error).__name__}: {error}") from None


def _refuse_bombs(events: Iterable[Any], where: str) -> None:
    depth = nodes = 0
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, NodeEvent) and event.anchor is not None:
            sign = "*" if isinstance(event, AliasEvent) else "&"
            raise InputError(
                f"{where}, line {line}: anchors and aliases ({sign}{event.anchor}) are not allowed; write it out"
            )
        nodes += isinstance(event, NodeEvent)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise InputError(
                f"{where}, line {line}: nested deeper than {MAX_DEPTH} or more than {MAX_NODES:,} values"
            )


NAMED_SECTIONS = ("task", "search.sampler", "search.stopping")
"""Sections that may be given by name: `sampler: tpe` is short for `sampler: {name: tpe}`."""


def override(values: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `values` with each `key.path=value` of `assignments` applied (the value is YAML).

    Below `search.space` the rest of the path is one key, since searched keys contain dots.

    Raises:
        InputError: no `=`, a path through something that is not a mapping, or a value that is not YAML.
    """
    result: dict[str, Any] = _copy(values)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise InputError(f"{assignment}: write it as key=value, for example training.steps=100")
        keys = path.split(".")
        if keys[:2] == ["search", "space"] and len(keys) > 2:
            keys = ["search", "space", ".".join(keys[2:])]
        target = result
        for depth, key in enumerate(keys[:-1]):
            inner = target.setdefault(key, {})
            if inner is None:
                inner = target[key] = {}
            if isinstance(inner, str) and ".".join(keys[: depth + 1]) in NAMED_SECTIONS:
                inner = target[key] = {"name": inner}
            if not isinstance(inner, dict):
                raise InputError(f"{assignment}: {'.'.join(keys[: depth + 1])} is not a section")
            target = inner
        target[keys[-1]] = parse_yaml(text, where=path)
    return result


def _copy(value: Any) -> Any:
    return {key: _copy(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint to append to "unknown NAME": the closest known name, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def as_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML, in the given order. `read_yaml` restores the same values."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    text = io.StringIO()
    yaml.dump(dict(values), text)
    return text.getvalue()
