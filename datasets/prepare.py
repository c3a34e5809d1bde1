"""Preparation of tasks: data are found or generated once per machine, then opened as memory-mapped splits.

A prepared task is a folder `<cache>/<name>-<address>` with one Arrow file per split and manifest.json. The
address covers task, options, source digest and reader version. The folder is written under a file lock with a temporary
name and renamed when complete, so several processes may prepare it at once and no reader sees an incomplete folder.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from filelock import FileLock

from proxytune.datasets.arrow_store import Split, SplitRecord
from proxytune.datasets.completeness import COMPARISONS
from proxytune.datasets.conversion import (
    MANIFEST,
    Progress,
    convert,
    manifest_sha256,
    options_of,
    remove_leftovers,
)
from proxytune.datasets.errors import DataError
from proxytune.datasets.image import Image
from proxytune.datasets.listops import ListOps, ListOpsMini
from proxytune.datasets.locating import find_source
from proxytune.datasets.parallel import Mapper, process_map
from proxytune.datasets.pathfinder import Pathfinder, Pathfinder64, PathX
from proxytune.datasets.recall import Recall
from proxytune.datasets.retrieval import Retrieval
from proxytune.datasets.sources import Source
from proxytune.datasets.task import Task, TaskInfo
from proxytune.datasets.text import Text

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (ListOps, ListOpsMini, Recall, Text, Retrieval, Image, Pathfinder, Pathfinder64, PathX)
}

MAX_OPTION = 100_000_000
"""Upper limit of numeric options, above any supported number of rows or tokens."""
COMMON_OPTIONS = ("max_length", "train_examples")  # every task accepts null, also those with a fixed length
_STORE_VERSION = 2


@dataclass(frozen=True)
class PreparedTask:
    """A prepared task with open train and validation splits. The test split is opened only by `open_test_split`.

    options are those it was prepared with. fingerprint is a sha256 over the content of every split: equal fingerprints
    mean equal data, independent of machine, path and form. The form is recorded in the conventions.
    """

    info: TaskInfo
    folder: Path
    fingerprint: str
    train: Split
    validation: Split
    records: Mapping[str, SplitRecord]
    options: Mapping[str, Any]

    @property
    def compared(self) -> str:
        """One line that compares the data with the original; empty for generated data."""
        conventions = self.info.conventions
        return "; ".join(conventions[key] for key in COMPARISONS if key in conventions)

    def verify(self, progress: Progress | None = None) -> None:
        """Read all of train and validation. Raises DataError with both sha256 if a file is damaged."""
        for split in (self.train, self.validation):
            split.verify(progress)


def make_task(name: str, **options: Any) -> Task:
    """Create the task with the options; None means the option's default.

    Raises DataError for an unknown name or key, or an invalid value.
    """
    if name not in TASKS:
        raise DataError(f"no task {name!r}{_nearest(name, TASKS)}; tasks are {', '.join(TASKS)}")
    known = {field.name for field in fields(TASKS[name])}  # type: ignore[arg-type]
    for key, value in options.items():
        if key not in known and not (key in COMMON_OPTIONS and value is None):
            raise DataError(
                f"task {name} has no option {key!r}{_nearest(key, known)}; it has {', '.join(sorted(known))}"
            )
    chosen = {key: value for key, value in options.items() if value is not None}
    kinds = get_type_hints(TASKS[name])
    for key, value in chosen.items():
        _check_option(key, value, kinds[key])
    return TASKS[name](**chosen)


def _check_option(key: str, value: Any, kind: Any) -> None:
    """Raise DataError unless the value is of the field's kind: a Literal, bool, or int (from 0 for a seed, else 1)."""
    if get_origin(kind) is Literal:
        allowed: tuple[Any, ...] = get_args(kind)
        rule = f"one of {', '.join(map(repr, allowed))}"
    elif kind is bool:
        allowed, rule = (True, False), "true or false"
    else:
        minimum, maximum = (0, 2**31 - 1) if key == "seed" else (1, MAX_OPTION)
        allowed = (value,) if type(value) is int and minimum <= value <= maximum else ()
        rule = f"a whole number from {minimum} to {maximum:,}"
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in allowed):
        raise DataError(f"{key} is {value!r}, it must be {rule}")


def _nearest(word: str, known: Mapping[str, Any] | set[str]) -> str:
    close = get_close_matches(word, known, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def task_info(name: str, **options: Any) -> TaskInfo:
    """The TaskInfo for these options. Reads no data. Raises DataError as make_task does."""
    return make_task(name, **options).info()


def prepare(
    name: str,
    *,
    root: Path | None = None,
    files: Mapping[str, Path] | None = None,
    partial: bool = False,
    cache: Path,
    progress: Progress | None = None,
    mapper: Mapper = process_map,
    **options: Any,
) -> PreparedTask:
    """Find or generate the task's data, convert them once, and open them.

    root is a folder or archive with the data in any known form; files names the file of each split instead; with neither
    the data are generated, if the task has a generator. partial allows incomplete data and records what is missing.
    Idempotent; concurrent processes wait for the first. Existing data are verified byte by byte. Raises DataError if the
    data cannot be found or read, or are invalid; no files are left behind.
    """
    task = make_task(name, **options)
    source = find_source(task, root, files=files, partial=partial, records=records_folder(cache))
    folder = _folder(task, source, cache)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                remove_leftovers(folder.parent)
                convert(task, source, folder, progress, mapper)
    except OSError as error:
        if error.filename is None or not Path(str(error.filename)).is_relative_to(folder.parent):
            raise
        raise DataError(f"cache folder {folder.parent} cannot be used: {error.strerror}") from None
    prepared = open_prepared(folder)
    paths = [folder / record.file for record in prepared.records.values()]
    _verify_once(folder, tuple((status.st_size, status.st_mtime_ns) for status in map(Path.stat, paths)))
    return prepared


def prepared_folder(
    name: str,
    *,
    root: Path | None = None,
    files: Mapping[str, Path] | None = None,
    partial: bool = False,
    cache: Path,
    **options: Any,
) -> Path:
    """The folder of the prepared task, whether or not it exists. Raises DataError if its source cannot be found."""
    task = make_task(name, **options)
    source = find_source(task, root, files=files, partial=partial, records=records_folder(cache))
    return _folder(task, source, cache)


def is_prepared(task: Task, source: Source, cache: Path) -> bool:
    """Whether the task is already prepared from this source. The splits are opened but not read completely."""
    try:
        open_prepared(_folder(task, source, cache))
    except DataError:
        return False
    return True


def records_folder(cache: Path) -> Path:
    """The folder of cached facts about large files (file_records.py)."""
    return Path(cache).resolve() / "files"


def _folder(task: Task, source: Source, cache: Path) -> Path:
    parts = [_STORE_VERSION, task.name, task.version, options_of(task), source.form, source.digest()]
    parts += ["partial"] if source.partial else []
    address = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return Path(cache).resolve() / f"{task.name}-{address[:16]}"


@lru_cache
def _verify_once(folder: Path, stamps: tuple[tuple[int, int], ...]) -> None:
    """Verify every byte, once per process and version of the files: a worker prepares the same task for each trial."""
    open_prepared(folder).verify()


def open_prepared(folder: Path) -> PreparedTask:
    """Open a folder created by `prepare`. Raises DataError if it is missing, incomplete or damaged.

    Only the structure is checked, in milliseconds whatever the size; `PreparedTask.verify` reads every byte.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        info_fields, options = dict(manifest["info"]), dict(manifest["options"])
        records = {split: SplitRecord(**record) for split, record in manifest["splits"].items()}
        if manifest_sha256(manifest) != manifest["sha256"]:
            raise DataError(
                f"{path} is damaged: its sha256 does not match; delete {folder} and prepare again"
            )
        info = TaskInfo(**{**info_fields, "splits": tuple(info_fields["splits"])})
    except FileNotFoundError:
        raise DataError(f"{folder} is not a prepared task: {MANIFEST} is missing") from None
    except DataError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error!r}); delete {folder} and prepare again") from None
    splits = {
        split: Split(folder / records[split].file, info, records[split]) for split in ("train", "validation")
    }
    return PreparedTask(
        info, folder, manifest["fingerprint"], splits["train"], splits["validation"], records, options
    )
