"""The task's data on this machine, prepared once in a cache that is shared by all studies and trials."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from proxytune.datasets import DataError, PreparedTask, prepare
from proxytune.datasets.parallel import Mapper, process_map
from proxytune.tuning.spec.task import Task

Progress = Callable[[int, int], None]


def cache_folder() -> Path:
    """$PROXYTUNE_CACHE, by default ~/.cache/proxytune."""
    return Path(os.environ.get("PROXYTUNE_CACHE") or "~/.cache/proxytune").expanduser().absolute()


def prepare_task(task: Task, progress: Progress | None = None, mapper: Mapper = process_map) -> PreparedTask:
    """The prepared task, prepared now if it is not in the cache. Safe to call from several processes at once.

    `mapper` distributes a generator's work over this machine's cores, or (ray_map) over those of a cluster.

    Raises:
        DataError: the data is missing, incomplete or damaged, or the cache folder cannot be written.
    """
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        raise DataError(
            f"the cache folder {cache} cannot be used: {error.strerror}; set PROXYTUNE_CACHE to another"
        ) from None
    return prepare(task.name, **task.source, cache=cache, progress=progress, mapper=mapper, **task.options)
