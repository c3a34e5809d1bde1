"""An ordered map over Ray tasks, which generates a task's data on every core of a cluster."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import ray

Item = TypeVar("Item")
Result = TypeVar("Result")


def ray_map(function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """Map over tasks on the connected cluster; results are in order, with two tasks per core submitted ahead.

    Implements `proxytune.datasets.parallel.Mapper`; `items` may be infinite. Tasks submitted ahead are not cancelled when
    the caller stops iterating: `ray.cancel` of a task that is just completing aborts the process (2.60, task_manager.cc,
    "Tried to complete task that was not pending").
    """
    ahead = max(1, 2 * int(ray.cluster_resources().get("CPU", 0)))
    task: Any = ray.remote(_apply)  # Ray does not accept a partial as a task
    shared = ray.put(function)
    remaining = iter(items)
    pending: deque[Any] = deque(task.remote(shared, item) for item in islice(remaining, ahead))
    while pending:
        yield ray.get(pending.popleft())
        pending.extend(task.remote(shared, item) for item in islice(remaining, 1))


def _apply(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)
