"""Which tasks' data lie under a root, in which form, and what is missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxytune.datasets.errors import DataError
from proxytune.datasets.pathfinder import FOLDERS
from proxytune.datasets.prepare import TASKS, make_task
from proxytune.datasets.task import Task


@dataclass(frozen=True)
class Finding:
    """One form of one task's data; missing names what is not there (empty: it can be prepared).

    place is the folder or archive; options are those that choose this form (`difficulty=easy`).
    """

    task: str
    form: str
    place: str
    num_files: int
    missing: tuple[str, ...] = ()
    options: str = ""


def find_sources(root: Path) -> list[Finding]:
    """Everything found under the root, complete or not; a damaged archive is a finding that says so.

    Raises DataError when the root does not exist.
    """
    if not root.exists():
        raise DataError(f"root {root} does not exist")
    return [finding for task, options in _variants() for finding in _findings(task, options, root)]


def _variants() -> Iterator[tuple[Task, str]]:
    for name in TASKS:
        task = make_task(name)
        if hasattr(task, "difficulty"):
            for difficulty in FOLDERS:
                yield make_task(name, difficulty=difficulty), f"difficulty={difficulty}"
        else:
            yield task, ""


def _findings(task: Task, options: str, root: Path) -> Iterator[Finding]:
    for layout in task.layouts:
        try:
            for source in layout.sources(root):
                files = [name for names in source.files.values() for name in names]
                folder = Path(files[0]).parent
                place = source.place(str(folder)) if str(folder) != "." else str(source.path)
                yield Finding(task.name, source.form, place, len(files), source.missing, options)
        except DataError as error:
            yield Finding(task.name, layout.form, str(root), 0, (str(error),), options)
