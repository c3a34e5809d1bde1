"""Long Range Arena tasks: readers, generators, the memory-mapped store and its batches (numpy, pyarrow, torch)."""

from proxytune.datasets.batches import Batch, TrainBatches, evaluation_batches
from proxytune.datasets.errors import DataError
from proxytune.datasets.prepare import TASKS, PreparedTask, open_prepared, prepare, task_info
from proxytune.datasets.task import TaskInfo

__all__ = [
    "TASKS",
    "Batch",
    "DataError",
    "PreparedTask",
    "TaskInfo",
    "TrainBatches",
    "evaluation_batches",
    "open_prepared",
    "prepare",
    "task_info",
]
