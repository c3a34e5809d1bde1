"""Verifies that an export folder is unchanged and that its winner follows from its recorded rule.

SHA256SUMS detects changed files. To detect a folder whose sums were rewritten after a change, the contents are also
compared with each other: every trial's record, the choice, the configuration, the metrics, the model, and the
fingerprint of the data if that data is on this machine.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proxytune.datasets import DataError, open_prepared
from proxytune.datasets.prepare import make_task
from proxytune.models.errors import ExportError
from proxytune.models.exported import (
    MODEL,
    SUMS,
    WEIGHTS,
    build_classifier,
    changed_files,
    read_model_file,
    read_sums,
)
from proxytune.tuning.errors import InputError, one_line
from proxytune.tuning.export.differences import compared
from proxytune.tuning.export.export import CARD, CONFIG, METRICS_FILE, PROVENANCE
from proxytune.tuning.export.front import INDEX, PAGE
from proxytune.tuning.export.verify_search import check_search, read_json
from proxytune.tuning.spec.trial_spec import FROM_TASK, TrialSpec, load_trial
from proxytune.tuning.trial.data import cache_folder

REQUIRED = (CARD, CONFIG, METRICS_FILE, MODEL, PROVENANCE, WEIGHTS)
_CONTENT_ERRORS = (KeyError, TypeError, ValueError, IndexError, AttributeError, InputError, ExportError)
"""Exceptions that values of a changed file may raise."""


def verify_export(folder: Path) -> list[str]:
    """A message for each problem, with the file and any contradicting field; empty if the folder is intact.

    Raises:
        InputError: the folder does not exist.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if (folder / INDEX).exists():
        points = sorted(path for path in folder.iterdir() if path.is_dir())
        inner = [f"{point.name}/{line}" for point in points for line in verify_export(point)]
        return [*_files(folder, (INDEX, PAGE)), *inner]
    problems = _files(folder, REQUIRED)
    for name, check in CHECKS.items():
        problems += _guarded(name, check, folder)
    return list(dict.fromkeys(problems))


def _guarded(name: str, check: Callable[[Path], Iterator[str]], folder: Path) -> list[str]:
    """The messages of a check, plus a message if it failed on invalid content or an unreadable file."""
    lines = []
    try:
        for line in check(folder):
            lines.append(line)  # noqa: PERF402  # keeps the lines before an error
    except _CONTENT_ERRORS as error:
        lines.append(f"{folder.name}: {name} check failed: {type(error).__name__}: {one_line(error)}")
    except OSError as error:
        lines.append(f"{Path(error.filename or folder).name}: {error.strerror}")
    return lines


def _files(folder: Path, required: Sequence[str]) -> list[str]:
    try:
        sums = read_sums(folder)
    except ExportError as error:
        return [str(error)]
    problems = [f"{name} is not in {SUMS}" for name in required if name not in sums]
    problems += changed_files(folder)
    on_disk = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return problems + [f"{name} is not in {SUMS}" for name in sorted(on_disk - sums.keys() - {SUMS})]


def _version(folder: Path) -> Iterator[str]:
    try:
        read_model_file(folder)
    except ExportError as error:
        yield str(error)


def _model(folder: Path) -> Iterator[str]:
    """Check that the configuration, the model's fields, the weights and the seed agree."""
    spec, provenance = load_trial(folder / CONFIG), read_json(folder / PROVENANCE)
    mine = {key: value for key, value in read_json(folder / MODEL)["model"].items() if key not in FROM_TASK}
    yield from compared(MODEL, mine, spec.model, CONFIG, "model")
    build_classifier(folder)
    if provenance["seed"] != spec.seed:
        yield f"{PROVENANCE}: seed is {provenance['seed']}, {CONFIG} has {spec.seed}"


def _data(folder: Path) -> Iterator[str]:
    """Check the data's fingerprint if data of the same task, options and conventions is prepared on this machine."""
    spec, stated = load_trial(folder / CONFIG), read_json(folder / PROVENANCE)["data"]
    if stated["task"] != spec.task.name:
        yield f"{PROVENANCE}: data.task is {stated['task']!r}, {CONFIG} has {spec.task.name!r}"
    found = {prepared.fingerprint: prepared for prepared in _prepared_here(spec, stated["conventions"])}
    if stated["fingerprint"] in found:
        try:
            found[stated["fingerprint"]].verify()
        except DataError as error:
            yield str(error)
    elif found:
        yield (
            f"{PROVENANCE}: data.fingerprint is {stated['fingerprint']!r}, data of this task on this machine has "
            f"{' or '.join(found)}"
        )


def _prepared_here(spec: TrialSpec, conventions: Mapping[str, str]) -> Iterator[Any]:
    options = asdict(make_task(spec.task.name, **spec.task.options))  # type: ignore[call-overload]
    for path in sorted(cache_folder().glob(f"{spec.task.name}-*/")):
        try:
            prepared = open_prepared(path)
        except DataError:
            continue  # an incomplete folder, or another task with the same prefix
        if prepared.options == options and dict(prepared.info.conventions) == dict(conventions):
            yield prepared


CHECKS = {"version": _version, "model": _model, "search": check_search, "data": _data}
"""The checks of the contents, by the name used in error messages."""
