"""Finds a task's data under a root, and explains what to do if they are not found."""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from proxytune.datasets.archives import is_archive
from proxytune.datasets.errors import DataError
from proxytune.datasets.file_tree import FileTree, FolderTree
from proxytune.datasets.sources import Format, Source, named_files, trees
from proxytune.datasets.task import Task

_MAX_FOLDERS_SEARCHED = 500


def find_source(
    task: Task,
    root: Path | None,
    *,
    files: Mapping[str, Path] | None = None,
    partial: bool = False,
    records: Path | None = None,
) -> Source:
    """The source of the task's data: the files, the root, or its generator.

    records is the cache folder for indexes of archives. Raises DataError with what was found, which files are needed and
    what to do; its details list what was tried.
    """
    if files:
        if root is not None:
            raise DataError(f"task.root ({root}) and task.files are both given; remove one of them")
        source = named_files(task.name, files, task.formats)
    elif root is None:
        if task.generator is None:
            raise DataError(f"{task.name} has no generator; set root to the folder or archive with its data")
        return Source(f"generated ({task.generator})")
    elif not task.formats:
        raise DataError(f"{task.name} is generated and reads no files; remove root (it is {root})")
    else:
        source = _locate(task, root, records, partial)
    source.partial = partial
    source.records = records
    if source.format is not None:
        source.format.check_files(source)
    return source


def found_sources(
    root: Path, formats: Sequence[Format], records: Path | None, problems: dict[str, str]
) -> Iterator[Source]:
    """Every source in the folder; if none of them is complete, also those in its archives.

    An unreadable archive is added to problems, by its path.
    """
    complete = False
    for tree in trees(root, formats, records, problems):
        for one in formats:
            try:
                for source in one.sources(tree):
                    complete = complete or not source.missing
                    yield source
            except DataError as error:
                problems[str(tree.path)] = str(error)
        if complete and isinstance(tree, FolderTree):
            return  # without opening the archives


def _locate(task: Task, root: Path, records: Path | None, partial: bool) -> Source:
    if not root.exists():
        raise DataError(
            f"root {root} does not exist; set it to the folder or archive with the {task.name} data"
        )
    incomplete: list[Source] = []
    problems: dict[str, str] = {}
    for source in found_sources(root, task.formats, records, problems):
        if not source.missing:
            return source
        incomplete.append(source)
    nearest = min(incomplete, key=lambda source: len(source.missing), default=None)
    if nearest is not None and partial and nearest.lacks_classes_only:
        nearest.gaps.append(f"{nearest.path}: no {', '.join(nearest.missing)}")
        return nearest
    if root.is_file() and not is_archive(root):
        raise DataError(f"{root} is a file, root is a folder or an archive; name each file in task.files")
    tried = dict.fromkeys(
        os.path.normpath(f"{folder}/{pattern}")
        for one in task.formats
        for folder in one.folders
        for pattern in list(one.parts.values())[:1]
    )
    lines = (
        _none_found(task, root, records, list(problems.values()))
        if nearest is None
        else _incomplete(task, root, nearest, list(problems.values()))
    )
    raise DataError(*lines, details=f"tried below {root}: {', '.join(tried)}")


def _incomplete(task: Task, root: Path, nearest: Source, problems: list[str]) -> list[str]:
    assert nearest.format is not None
    first = f"no complete {task.name} data under {root}: {sum(map(len, nearest.files.values())):,} files of the format {nearest.form!r} found"
    if nearest.format.unreadable:
        return [first, f"They cannot be read: {nearest.format.unreadable}.", _wanted(task)]
    advice = "Put them beside the others, or name each file in task.files."
    if nearest.lacks_classes_only:
        advice = "Put them beside the others; set task.partial: true to allow incomplete data."
    missing = f"missing: {_first(nearest.missing)}"
    return [first, f"{missing}. {advice}", problems[0]] if problems else [first, missing, advice]


def _none_found(task: Task, root: Path, records: Path | None, problems: list[str]) -> list[str]:
    found = _other_difficulty(task, root, records) or _elsewhere(root, task.formats, records)
    names = [name for tree in trees(root, (), records, {}) for names in tree.listing(".") for name in names]
    holds = f", which holds {_first(sorted(names))}" if names else ", which is empty" if root.is_dir() else ""
    return [f"no {task.name} data under {root}{holds}", *problems[:1], found or _wanted(task)]


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _wanted(task: Task) -> str:
    first = task.formats[0]
    others = f"{first.name}; {len(task.formats) - 2} other formats are listed in docs/DATA.md"
    return f"Expected: {', '.join(first.wanted()[:4])} ({others}). Or name each file in task.files."


def _other_difficulty(task: Task, root: Path, records: Path | None) -> str:
    """A hint if the data have another difficulty, else an empty string."""
    for difficulty in get_args(get_type_hints(type(task)).get("difficulty")):
        other = replace(cast("Any", task), difficulty=difficulty)
        if any(not source.missing for source in found_sources(root, other.formats, records, {})):
            return f"Found data of difficulty={difficulty}: set that option, or use another root."
    return ""


def _elsewhere(root: Path, formats: Sequence[Format], records: Path | None) -> str:
    """A hint at a subfolder, on disk or in the archive, in which a format is complete; else an empty string."""
    for tree in trees(root, (), records, {}):
        for folder in islice(_all_folders(tree), _MAX_FOLDERS_SEARCHED):
            path = Path(os.path.normpath(root / folder)) if isinstance(tree, FolderTree) else Path(folder)
            for one in formats:
                base = path if "." in one.folders else path.parent if path.name in one.folders else None
                if base is not None and any(not source.missing for source in one.found_in(tree, folder)):
                    if isinstance(tree, FolderTree):
                        return f"{base} looks like it: give that as root."
                    return (
                        f"Its folder {base} looks like it: unpack the archive and give that folder as root."
                    )
    return ""


def _all_folders(tree: FileTree) -> Iterator[str]:
    """The folders of a tree, breadth first."""
    waiting = deque(["."])
    while waiting:
        folder = waiting.popleft()
        yield folder
        waiting.extend(name if folder == "." else f"{folder}/{name}" for name in tree.listing(folder)[0])
