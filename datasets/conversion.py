"""Writes a task's rows and their manifest into its folder of the cache.

The files are unnamed until all of them are complete, and the folder is renamed last. No reader sees an incomplete folder,
and a killed process leaves no files.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from proxytune.datasets.arrow_store import SplitWriter
from proxytune.datasets.completeness import RowCounts
from proxytune.datasets.errors import DataError
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.sources import Source
from proxytune.datasets.task import SPLITS, Rows, Task, TaskInfo

Progress = Callable[[int, int], None]  # (rows done, total rows or 0 if unknown)
MANIFEST = "manifest.json"
_PARTIAL = ".partial"


def options_of(task: Task) -> dict[str, Any]:
    """The task's options, including defaults."""
    return asdict(task)  # type: ignore[call-overload,no-any-return]


def convert(task: Task, source: Source, folder: Path, progress: Progress | None, mapper: Mapper) -> None:
    """Read the source and write the folder, whose lock the caller holds. Raises DataError like the readers."""
    info = task.info(source.form)
    source.scratch = folder.parent
    writers: dict[str, SplitWriter] = {}
    try:
        with ExitStack() as stack:
            for split in SPLITS:
                writers[split] = stack.enter_context(SplitWriter(folder.parent, split, info))
            counts = _read(task, source, writers, progress, mapper)
        for split, writer in writers.items():
            if not writer.rows:
                raise DataError(
                    f"{source.described(split) if source.path else task}: no rows for the {split} split of {info.name}"
                )
        if source.format is not None:
            source.notes.update(counts.findings(source, info.num_classes))
        if source.gaps:
            more = f"; and {len(source.gaps) - 3:,} more" if len(source.gaps) > 3 else ""
            source.notes["partial"] = "; ".join(source.gaps[:3]) + more
        conventions = {**info.conventions, "source": source.form, **source.notes}
        if task.train_examples is not None:
            conventions["train"] = f"first {task.train_examples} examples"
        _publish(replace(info, conventions=conventions), task, source, writers, folder)
    finally:
        for writer in writers.values():
            writer.discard()
        source.close()


def _read(
    task: Task,
    source: Source,
    writers: Mapping[str, SplitWriter],
    progress: Progress | None,
    mapper: Mapper,
) -> RowCounts:
    counts = RowCounts(task.name)
    done = 0
    blocks = cast("Generator[tuple[str, Rows], None, None]", task.read(source, mapper))
    with closing(blocks):  # otherwise worker processes run until the generator is garbage-collected
        for split, rows in blocks:
            counts.add(split, rows)
            if split == "train" and task.train_examples is not None:
                rows = rows[: task.train_examples - writers["train"].rows]
            _add(writers[split], rows.cut(task.max_length), source)
            done += len(rows)
            if progress is not None:
                progress(done, task.num_generated if source.path is None else 0)
    return counts


def _add(writer: SplitWriter, rows: Rows, source: Source) -> None:
    try:
        writer.add(rows)
    except DataError as error:
        raise DataError(f"{source.described(writer.split)}: {error}") from None


def _publish(
    info: TaskInfo, task: Task, source: Source, writers: Mapping[str, SplitWriter], folder: Path
) -> None:
    records = {split: asdict(writer.record) for split, writer in writers.items() if writer.record}
    manifest: dict[str, Any] = {
        "info": asdict(info),
        "options": options_of(task),
        "source": str(source.path),
        "form": source.form,
        "splits": records,
        "fingerprint": _fingerprint(info, records),
    }
    manifest["sha256"] = manifest_sha256(manifest)
    partial = folder.with_name(f"{folder.name}{_PARTIAL}")  # used by this process only: the lock is held
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        for writer in writers.values():
            writer.publish(partial)
        with open(partial / MANIFEST, "w") as stream:
            json.dump(manifest, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _fingerprint(info: TaskInfo, records: Mapping[str, Mapping[str, Any]]) -> str:
    content = {split: record["content_sha256"] for split, record in records.items()}
    return hashlib.sha256(json.dumps([info.name, content], sort_keys=True).encode()).hexdigest()


def manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """The sha256 of all fields of the manifest except `sha256`."""
    fields = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def remove_leftovers(cache: Path) -> None:
    """Remove partial folders of processes that were killed while publishing. Running processes hold a lock."""
    for partial in cache.glob(f"*{_PARTIAL}"):
        lock = FileLock(f"{str(partial)[: -len(_PARTIAL)]}.lock", timeout=0)
        try:
            with lock:
                shutil.rmtree(partial, ignore_errors=True)
        except Timeout:
            continue
