"""Finds a task's data under a root, and says in a few lines what to do where they are not there."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from proxytune.datasets.archives import is_archive
from proxytune.datasets.errors import DataError
from proxytune.datasets.file_tree import FolderTree
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
    """Where the task's data come from: the files, the root, or its generator.

    records is a folder that keeps the indexes of archives. Raises DataError that says what was found, which files
    are wanted, and how to get there; its details list what was tried.
    """
    if files:
        if root is not None:
            raise DataError(f"task.root ({root}) and task.files are both given; leave one of them out")
        source = named_files(task.name, files, task.formats)
    elif root is None:
        if task.generator is None:
            raise DataError(
                f"{task.name} has no generator; give root, the folder or archive that holds its data"
            )
        return Source(f"generated ({task.generator})")
    elif not task.formats:
        raise DataError(f"{task.name} is generated and reads no files; leave root out (it is {root})")
    else:
        source = _locate(task.name, root, task.formats, records)
    source.partial = partial
    source.records = records
    if source.format is not None:
        source.format.check_files(source)
    return source


def found_sources(
    root: Path, formats: Sequence[Format], records: Path | None, problems: dict[str, str]
) -> Iterator[Source]:
    """Every source in the folder; and where none of them is complete, those in the archives beside.

    An archive that cannot be read is an entry of problems, by its path.
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
            return  # before the archives beside it are opened


def _locate(task: str, root: Path, formats: Sequence[Format], records: Path | None) -> Source:
    if not root.exists():
        raise DataError(f"root {root} does not exist; give the folder or archive that holds the {task} data")
    incomplete: list[Source] = []
    problems: dict[str, str] = {}
    for source in found_sources(root, formats, records, problems):
        if not source.missing:
            return source
        incomplete.append(source)
    if root.is_file() and not is_archive(root):
        raise DataError(f"{root} is a file, root is a folder or an archive; name each file in task.files")
    raise _refusal(task, root, formats, incomplete, list(problems.values()))


def _refusal(
    task: str, root: Path, formats: Sequence[Format], incomplete: list[Source], problems: list[str]
) -> DataError:
    tried = dict.fromkeys(
        os.path.normpath(f"{folder}/{pattern}")
        for one in formats
        for folder in one.folders
        for pattern in list(one.parts.values())[:1]
    )
    details = f"tried below {root}: {', '.join(tried)}"
    if incomplete:
        nearest = min(incomplete, key=lambda source: len(source.missing))
        have = sum(map(len, nearest.files.values()))
        shown = ", ".join(nearest.missing[:4]) + (" ..." if len(nearest.missing) > 4 else "")
        return DataError(
            f"no complete {task} data under {root}: {have:,} files of the form {nearest.form!r} are there",
            f"missing: {shown}",
            *problems[:1],
            "Put them beside the others, or name each file in task.files.",
            details=details,
        )
    elsewhere = _elsewhere(root, formats)
    first = formats[0]
    wanted = ", ".join(first.wanted()[:4])
    if elsewhere is not None:
        advice = f"{elsewhere} looks like it: give that as root."
    else:
        others = f"{first.name}; {len(formats) - 2} other forms are in docs/DATA.md"
        advice = f"Wanted: {wanted} ({others}). Or name each file in task.files."
    return DataError(f"no {task} data under {root}{_contents(root)}", *problems[:2], advice, details=details)


def _contents(root: Path) -> str:
    if not root.is_dir():
        return ""
    names = sorted(os.listdir(root))
    if not names:
        return ", which is empty"
    return f", which holds {', '.join(names[:4])}" + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _elsewhere(root: Path, formats: Sequence[Format]) -> Path | None:
    """A folder deeper down in which a format is complete."""
    if not root.is_dir():
        return None
    for folder, folders, _ in islice(os.walk(root), _MAX_FOLDERS_SEARCHED):
        folders.sort()
        path = Path(folder)
        tree = FolderTree(path, None)
        for one in formats:
            base = path if "." in one.folders else path.parent if path.name in one.folders else None
            if base is not None and any(not source.missing for source in one.found_in(tree, ".")):
                return base
    return None
