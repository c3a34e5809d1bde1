"""Long Range Arena tasks: readers, generators, the memory-mapped store and its batches (numpy, pyarrow, torch)."""

from typing import TYPE_CHECKING, Any

from proxytune.datasets.errors import DataError
from proxytune.datasets.inspection import inspect
from proxytune.datasets.inventory import Finding, find_sources
from proxytune.datasets.openings import open_test_split
from proxytune.datasets.prepare import TASKS, PreparedTask, open_prepared, prepare, task_info
from proxytune.datasets.task import TaskInfo

if TYPE_CHECKING:
    from proxytune.datasets.batches import Batch, TrainBatches, evaluation_batches

__all__ = [
    "TASKS",
    "Batch",
    "DataError",
    "Finding",
    "PreparedTask",
    "TaskInfo",
    "TrainBatches",
    "evaluation_batches",
    "find_sources",
    "inspect",
    "open_prepared",
    "open_test_split",
    "prepare",
    "task_info",
]


def __getattr__(name: str) -> Any:
    # Batches need torch, which the generators' worker processes and `data list` would otherwise load for nothing.
    if name in ("Batch", "TrainBatches", "evaluation_batches"):
        from proxytune.datasets import batches

        return getattr(batches, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
