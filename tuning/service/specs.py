"""A study file that came over the network: read within bounds, and kept from naming files and servers."""

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
    """The mapping in a request's body.

    Raises:
        Problem: 415, neither YAML nor JSON; 400, it cannot be read; 422, a text in it is none.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != JSON and kind not in YAML:
        raise Problem(415, f"a study is YAML or JSON, not {kind[:100] or 'without a Content-Type'}")
    try:
        text = body.decode("utf-8")
    except UnicodeError:
        raise Problem(400, "study: not UTF-8 text") from None
    try:
        value = _read_json(text) if kind == JSON else parse_yaml(text, where="study")
        json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeError:
        raise Problem(422, "study: holds half a surrogate pair, which is no text") from None
    except TypeError:  # YAML has lists and dates as keys
        raise Problem(400, "study: a key is no text") from None
    except InputError as error:
        raise Problem(400, str(error)) from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Problem(400, f"study: holds {type(value).__name__}, not a mapping of names to values")
    return value


def _read_json(text: str) -> Any:
    """JSON under the bounds of a YAML file, and as strict: no second key of a name, no NaN."""

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
    """The study to run, where this server's own configuration says where everything is kept.

    Raises:
        InputError: what is wrong with it, or what it names that is not its to name.
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
        "search.warm_start.storage": {None, str(settings.storage)},  # its defaults are the study's own
        "search.warm_start.database": {None, settings.database},
    }
    for key, places in allowed.items():
        named = _named(values, key)
        if named is not _ABSENT and named not in places:
            raise InputError(f"study: {key}: this server sets where everything is stored; remove the key")
    values = values | {key: own[key] for key in ("storage", "database", "checkpoints")}
    tracking = values.get("tracking") or {}
    if isinstance(tracking, dict):
        values["tracking"] = tracking | {"uri": settings.tracking_uri}
    try:
        spec = parse_study(values, where="study")
    except ArithmeticError as error:  # a number too large for a float, somewhere
        raise InputError(f"study: a number is out of range: {error}") from None
    if "task.root" in spec.search.space:
        raise InputError("study: search.space: task.root cannot be searched; name one root in task.root")
    if spec.name.endswith(SUFFIX):
        raise InputError(f"study: name: {spec.name} is a reserved name; choose another")
    earlier = spec.search.warm_start
    if earlier is not None and not NAME.fullmatch(earlier.study):
        raise InputError(f"study: search.warm_start.study: {earlier.study!r} is no study's name")
    if spec.task.root is not None:
        _confine("task.root", spec.task.root, settings.roots)
    for split, path in (spec.task.files or {}).items():
        _confine(f"task.files.{split}", path, settings.roots)
    return spec


_ABSENT = object()


def _named(values: Any, key: str) -> Any:
    """What a study says at a dotted key: text or null, as far as it can be a place at all."""
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return _ABSENT
        values = values[part]
    return values if isinstance(values, str | None) else str(values)


def _confine(key: str, root: Path, roots: tuple[Path, ...]) -> None:
    """Refuse data outside the configured roots, whichever way a link or `..` leads there.

    Raises:
        InputError: it is not under one of them.
    """
    try:
        real = Path(os.path.realpath(root))
    except (OSError, ValueError) as error:
        raise InputError(f"study: {key}: {error}") from None
    if not any(real.is_relative_to(os.path.realpath(allowed)) for allowed in roots):
        known = ", ".join(map(str, roots)) or "none was configured; leave it out for generated data"
        raise InputError(f"study: {key}: {root} is not under a root of this server: {known}")
