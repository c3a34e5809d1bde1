"""An ordered map over worker processes, for the generators; no worker outlives its parent, however that ends."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import Connection
from typing import Protocol, TypeVar

from proxytune.datasets.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Mapper(Protocol):
    """Maps a picklable function over items and yields the results in order; items may be endless."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]: ...


def process_map(function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """Map over one process a core; results come in order, a few items are worked on ahead.

    Workers are spawned, not forked: the caller may hold threads (torch, gRPC) that a fork would break. They finish the
    item they work on when the caller leaves the loop, and end at once when it dies. Raises DataError when a worker is
    killed.
    """
    num_workers = len(os.sched_getaffinity(0))
    if num_workers == 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    watched, lifeline = context.Pipe(duplex=False)
    remaining = iter(items)
    with ProcessPoolExecutor(num_workers, context, _end_with_parent, (watched,)) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in islice(remaining, 2 * num_workers):
                pending.append(pool.submit(function, item))
            while pending:
                yield pending.popleft().result()
                for item in islice(remaining, 1):
                    pending.append(pool.submit(function, item))
        except BrokenProcessPool:
            raise DataError(
                "a process that generates data was killed (out of memory?); nothing was kept"
            ) from None
        finally:
            # First the pool, then the pipe: a worker that ends while it writes a result leaves the pool waiting for the rest.
            pool.shutdown(wait=True, cancel_futures=True)
            lifeline.close()
            watched.close()


def _end_with_parent(watched: Connection) -> None:
    """End this worker when the other end of the pipe is closed: by its parent, or by the kernel when that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle

    def watch() -> None:
        watched.poll(None)  # nothing is ever sent
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
