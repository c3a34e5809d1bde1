"""An ordered map over worker processes, for the generators."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Mapper(Protocol):
    """Maps a picklable function over items and yields the results in order; items may be endless."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]: ...


def process_map(function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """Map over one process a core; results come in order, a few items are worked on ahead.

    Workers are spawned, not forked: the caller may hold threads (torch, gRPC) that a fork would break.
    """
    num_workers = len(os.sched_getaffinity(0))
    if num_workers == 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    remaining = iter(items)
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in islice(remaining, 2 * num_workers):
                pending.append(pool.submit(function, item))
            while pending:
                yield pending.popleft().result()
                for item in islice(remaining, 1):
                    pending.append(pool.submit(function, item))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
