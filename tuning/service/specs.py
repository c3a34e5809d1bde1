"""Parse a study file that was received over HTTP, within size limits and without access to foreign files and servers."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from proxytune.tuning.confirm.retraining import SUFFIX
from proxytune.tuning.errors import InputError
from proxytune.tuning.service.problems import Problem
from proxytune.tuning.service.settings import Settings
from proxytune.tuning.spec.locations import default_uri
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.spec.trial_spec import NAME
from proxytune.tuning.spec.yaml_file import MAX_DEPTH, MAX_NODES, parse_yaml

JSON = "application/json"
YAML = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")


def read_body(body: bytes, content_type: str) -> dict[str, Any]:
    """Parse a request's body as a mapping.

    Raises:
        Problem: 415, neither YAML nor JSON; 400, it cannot be parsed; 422, it contains a lone surrogate.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != JSON and kind not in YAML:
        raise Problem(415, f"Content-Type must be YAML or JSON, got {kind[:100] or 'none'}")
    try:
        text = body.decode("utf-8")
    except UnicodeError:
        raise Problem(400, "study: not UTF-8 text") from None
    try:
        value = _read_json(text) if kind == JSON else parse_yaml(text, where="study")
        json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeError:
        raise Problem(422, "study: contains a lone surrogate, which is not valid text") from None
    except TypeError:  # YAML has lists and dates as keys
        raise Problem(400, "study: a key is not text") from None
    except InputError as error:
        raise Problem(400, str(error)) from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Problem(400, f"study: expected a mapping of names to values, got {type(value).__name__}")
    return value


def _read_json(text: str) -> Any:
    """Parse JSON with the limits of a YAML file; rejects duplicate keys and NaN."""

    def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise InputError(f"study: the key {key} appears twice")
            values[key] = value
        return values

    def refuse(constant: str) -> Any:
        raise InputError(f"study: {constant} is not JSON")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"study: {error}") from None
    waiting, nodes = [(value, 1)], 0
    while waiting:
        inner, depth = waiting.pop()
        nodes += 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise InputError(f"study: nested deeper than {MAX_DEPTH} or more than {MAX_NODES:,} values")
        if isinstance(inner, dict | list):
            waiting += [(part, depth + 1) for part in (inner.values() if isinstance(inner, dict) else inner)]
    return value


def admit(values: dict[str, Any], settings: Settings) -> StudySpec:
    """Validate a submitted study; the server's settings determine where its data are stored.

    Raises:
        InputError: the study is invalid, or sets a key that is reserved to the server.
    """
    own = {
        "storage": str(settings.storage),
        "database": settings.database,
        "checkpoints": settings.checkpoints,
        "tracking.uri": settings.tracking_uri,
    }
    allowed = {
        **{key: {value} for key, value in own.items()},
        "tracking.uri": {None, settings.tracking_uri, default_uri(settings.storage)},
        "search.warm_start.storage": {None, str(settings.storage)},  # the defaults are those of the study
        "search.warm_start.database": {None, settings.database},
    }
    for key, locations in allowed.items():
        named = _named(values, key)
        if named is not _ABSENT and named not in locations:
            raise InputError(f"study: {key}: this server sets where data are stored; remove the key")
    values = values | {key: own[key] for key in ("storage", "database", "checkpoints")}
    tracking = values.get("tracking") or {}
    if isinstance(tracking, dict):
        values["tracking"] = tracking | {"uri": settings.tracking_uri}
    spec = parse_study(values, where="study")
    if spec.name.endswith(SUFFIX):
        raise InputError(f"study: name: {spec.name} is a reserved name; choose another")
    earlier = spec.search.warm_start
    if earlier is not None and earlier.study is not None and not NAME.fullmatch(earlier.study):
        raise InputError(f"study: search.warm_start.study: {earlier.study!r} is not a valid study name")
    if spec.task.root is not None:
        _confine("task.root", spec.task.root, settings.roots)
    for split, path in (spec.task.files or {}).items():
        _confine(f"task.files.{split}", path, settings.roots)
    return spec


_ABSENT = object()


def _named(values: Any, key: str) -> Any:
    """A study's value at a dotted key, as text or None; `_ABSENT` if the key is missing."""
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return _ABSENT
        values = values[part]
    return values if isinstance(values, str | None) else str(values)


def _confine(key: str, root: Path, roots: tuple[Path, ...]) -> None:
    """Check that a path lies under a configured root, with links and `..` resolved.

    Raises:
        InputError: it does not.
    """
    try:
        real = Path(os.path.realpath(root))
    except (OSError, ValueError) as error:
        raise InputError(f"study: {key}: {error}") from None
    if not any(real.is_relative_to(os.path.realpath(allowed)) for allowed in roots):
        known = ", ".join(map(str, roots)) or "no root is configured; omit the key for generated data"
        raise InputError(f"study: {key}: {root} is not under a data root of this server: {known}")
