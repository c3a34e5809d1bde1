"""Inventory of the tasks' data under a root: their forms, and what is missing."""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from proxytune.datasets.errors import DataError
from proxytune.datasets.locating import found_sources
from proxytune.datasets.pathfinder_formats import FOLDERS
from proxytune.datasets.prepare import TASKS, is_prepared, make_task, records_folder
from proxytune.datasets.sources import Source
from proxytune.datasets.task import Task


@dataclass(frozen=True)
class Finding:
    """One form of one task's data, or an archive that cannot be read (task is then "").

    place is the folder or archive; options are those that select this form (`difficulty=easy`). status is `ready` if it
    was prepared and verified, `found` if all files exist (`prepare` checks their rows), else `incomplete` or
    `unreadable`; missing gives the reason.
    """

    task: str
    form: str
    place: str
    num_files: int
    missing: tuple[str, ...] = ()
    options: str = ""
    status: Literal["ready", "found", "incomplete", "unreadable"] = "found"


def find_sources(root: Path, cache: Path | None = None) -> list[Finding]:
    """All forms found under the root, without duplicates, complete or not.

    Archives are opened only for tasks that are not in the folder. A damaged archive is an `unreadable` finding. With
    cache, forms that are prepared there are `ready`. Raises DataError if the root does not exist.
    """
    if not root.exists():
        raise DataError(f"root {root} does not exist")
    problems: dict[str, str] = {}
    findings = [
        finding
        for task, options in _variants()
        for finding in _findings(task, options, root, cache, problems)
    ]
    return findings + [
        Finding("", "-", path, 0, (why.removeprefix(f"{path}: "),), status="unreadable")
        for path, why in problems.items()
    ]


def _variants() -> Iterator[tuple[Task, dict[str, str]]]:
    for name in TASKS:
        task = make_task(name)
        if hasattr(task, "difficulty"):
            for difficulty in FOLDERS:
                yield make_task(name, difficulty=difficulty), {"difficulty": difficulty}
        else:
            yield task, {}


def _findings(
    task: Task, options: dict[str, str], root: Path, cache: Path | None, problems: dict[str, str]
) -> Iterator[Finding]:
    seen: set[frozenset[tuple[str, str]]] = set()
    complete = False
    records = None if cache is None else records_folder(cache)
    for source in found_sources(root, task.formats, records, problems):
        files = _real_files(source)
        if any(files <= other for other in seen):
            continue
        seen.add(files)
        missing = source.missing or _lacking_files(source)
        # `prepare` uses the first complete form, so only that one is `ready`.
        prepared = not missing and not complete and cache is not None and is_prepared(task, source, cache)
        complete = complete or not missing
        yield Finding(
            task.name,
            source.form,
            _place(source),
            len(files),
            missing,
            ", ".join(f"{key}={value}" for key, value in options.items()),
            "incomplete" if missing else "ready" if prepared else "found",
        )


def _real_files(source: Source) -> frozenset[tuple[str, str]]:
    """The files by their real paths, independent of links."""
    folder = functools.cache(lambda name: os.path.realpath(source.place(name)))
    return frozenset(
        (folder(os.path.dirname(name)), os.path.basename(name))
        for names in source.files.values()
        for name in names
    )


def _lacking_files(source: Source) -> tuple[str, ...]:
    assert source.format is not None
    try:
        source.format.check_files(source)
    except DataError as error:
        return (str(error).partition(";")[0],)
    return ()


def _place(source: Source) -> str:
    folder = os.path.commonpath([os.path.dirname(names[0]) for names in source.files.values() if names])
    return source.place(folder) if folder else str(source.path)
