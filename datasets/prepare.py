"""From a task's name to memory-mapped splits: found or generated once per machine, then opened in milliseconds.

A prepared task is a folder `<cache>/<name>-<address>` with one Arrow file a split and manifest.json. The
address covers task, options, source digest and reader version. It is written under a file lock to a temporary
name and renamed when complete, so several processes may ask at once and nobody sees half of it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from filelock import FileLock

from proxytune.datasets.arrow_store import Split, SplitRecord, SplitWriter
from proxytune.datasets.errors import DataError
from proxytune.datasets.image import Image
from proxytune.datasets.listops import ListOps, ListOpsMini
from proxytune.datasets.parallel import Mapper, process_map
from proxytune.datasets.pathfinder import Pathfinder, Pathfinder64, PathX
from proxytune.datasets.recall import Recall
from proxytune.datasets.retrieval import Retrieval
from proxytune.datasets.sources import Source
from proxytune.datasets.task import SPLITS, Task, TaskInfo, find_source
from proxytune.datasets.text import Text

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (ListOps, ListOpsMini, Recall, Text, Retrieval, Image, Pathfinder, Pathfinder64, PathX)
}

COMMON_OPTIONS = ("max_length", "train_examples")  # null is taken by every task, also by those of one length
Progress = Callable[[int, int], None]  # (rows done, rows in all or 0 where that is not known yet)
MANIFEST = "manifest.json"
_STORE_VERSION = 1


@dataclass(frozen=True)
class PreparedTask:
    """A prepared task, its train and validation splits open; the test split opens in `open_test_split` alone.

    options are those it was prepared with. fingerprint is a sha256 over the task's conventions and the content of every split: equal fingerprints mean
    equal data, whatever machine or path they came from.
    """

    info: TaskInfo
    folder: Path
    fingerprint: str
    train: Split
    validation: Split
    records: Mapping[str, SplitRecord]
    options: Mapping[str, Any]

    def verify(self, progress: Progress | None = None) -> None:
        """Read all of train and validation; raises DataError that names a damaged file and both sha256."""
        for split in (self.train, self.validation):
            split.verify(progress)


def make_task(name: str, **options: Any) -> Task:
    """The task under the options; None means the option's default. Raises DataError for an unknown name or key."""
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
        minimum = 0 if key == "seed" else 1
        allowed = (value,) if type(value) is int and value >= minimum else ()
        rule = f"a whole number from {minimum}"
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in allowed):
        raise DataError(f"{key} is {value!r}, it must be {rule}")


def _nearest(word: str, known: Mapping[str, Any] | set[str]) -> str:
    close = get_close_matches(word, known, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def task_info(name: str, **options: Any) -> TaskInfo:
    """What a model sees of the task under these options; reads no data. Raises DataError as make_task does."""
    return make_task(name, **options).info()


def prepare(
    name: str,
    *,
    root: Path | None = None,
    cache: Path,
    progress: Progress | None = None,
    mapper: Mapper = process_map,
    **options: Any,
) -> PreparedTask:
    """Find or generate the task's data, convert them once, and open them.

    root is a folder or archive that holds the data in any known form; None generates where the task can.
    Idempotent; a second process that asks for the same waits for the first. What is there already is verified
    byte by byte. Raises DataError when the data cannot be found, read or trusted: then nothing is left behind.
    """
    task = make_task(name, **options)
    source = find_source(task, Path(root) if root is not None else None)
    folder = _folder(task, source, cache)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            _write(task, source, folder, progress, mapper)
    prepared = open_prepared(folder)
    files = [folder / record.file for record in prepared.records.values()]
    _verify_once(folder, tuple((status.st_size, status.st_mtime_ns) for status in map(Path.stat, files)))
    return prepared


def prepared_folder(name: str, *, root: Path | None = None, cache: Path, **options: Any) -> Path:
    """Where `prepare` puts the task, whether or not it has. Raises DataError when its source cannot be found."""
    task = make_task(name, **options)
    return _folder(task, find_source(task, Path(root) if root is not None else None), cache)


def _folder(task: Task, source: Source, cache: Path) -> Path:
    parts = [_STORE_VERSION, task.name, task.version, _options(task), source.form, source.digest()]
    address = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return Path(cache).resolve() / f"{task.name}-{address[:16]}"


@lru_cache
def _verify_once(folder: Path, stamps: tuple[tuple[int, int], ...]) -> None:
    """Read every byte, once a process and version of the files: a worker prepares the same task for each trial."""
    open_prepared(folder).verify()


def _options(task: Task) -> dict[str, Any]:
    return asdict(task)  # type: ignore[call-overload,no-any-return]


def _write(task: Task, source: Source, folder: Path, progress: Progress | None, mapper: Mapper) -> None:
    info = task.info(source.form)
    partial = folder.with_name(f"{folder.name}.partial")  # ours alone: the lock is held
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(SplitWriter(partial / f"{split}.arrow", info)) for split in SPLITS
            }
            done = 0
            for split, rows in task.read(source, mapper):
                if split == "train" and task.train_examples is not None:
                    rows = rows[: task.train_examples - writers["train"].rows]
                writers[split].add(rows.cut(task.max_length))
                done += len(rows)
                if progress is not None:
                    progress(done, task.num_generated if source.path is None else 0)
        conventions = {**info.conventions, "source": source.form, **source.notes}
        if task.train_examples is not None:
            conventions["train"] = f"first {task.train_examples} examples"
        info = replace(info, conventions=conventions)
        records = {}
        for split, writer in writers.items():
            assert writer.record is not None
            if not writer.record.rows:
                raise DataError(f"{source.path or task}: no rows for the {split} split of {info.name}")
            records[split] = asdict(writer.record)
        manifest = {
            "info": asdict(info),
            "options": _options(task),
            "source": str(source.path),
            "splits": records,
            "fingerprint": _fingerprint(asdict(info), records),
        }
        with open(partial / MANIFEST, "w") as stream:
            json.dump(manifest, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        source.close()


def _fingerprint(info: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> str:
    content = {split: record["content_sha256"] for split, record in records.items()}
    return hashlib.sha256(json.dumps([info, content], sort_keys=True).encode()).hexdigest()


def open_prepared(folder: Path) -> PreparedTask:
    """Open a folder that `prepare` made. Raises DataError when it is missing, incomplete or damaged.

    Checks structure only, in milliseconds whatever the size; `PreparedTask.verify` reads every byte.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        info_fields, options = dict(manifest["info"]), dict(manifest["options"])
        records = {split: SplitRecord(**record) for split, record in manifest["splits"].items()}
        if _fingerprint(info_fields, manifest["splits"]) != manifest["fingerprint"]:
            raise DataError(
                f"{path} is damaged: its fingerprint does not fit; delete {folder} and prepare again"
            )
        info = TaskInfo(**{**info_fields, "splits": tuple(info_fields["splits"])})
    except FileNotFoundError:
        raise DataError(f"{folder} is no prepared task: {MANIFEST} is missing") from None
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is damaged ({error!r}); delete {folder} and prepare again") from None
    splits = {
        split: Split(folder / records[split].file, info, records[split]) for split in ("train", "validation")
    }
    return PreparedTask(
        info, folder, manifest["fingerprint"], splits["train"], splits["validation"], records, options
    )
