"""An ordered map over worker processes, for the generators. No worker outlives its parent."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from proxytune.datasets.errors import DataError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Mapper(Protocol):
    """Maps a picklable function over items, which may be infinite, and yields the results in order."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]: ...


def process_map(function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """Map over one process per core; results come in order, and a worker has at most two items at a time.

    Workers are spawned, not forked: the caller may have threads (torch, gRPC) that a fork would break. They are killed
    when the caller leaves the loop, and exit when it dies. An item must fit into a pipe's buffer (64 KiB). Raises
    DataError if a worker is killed, and any exception of the function.
    """
    num_workers = len(os.sched_getaffinity(0))
    if num_workers == 1:
        yield from map(function, items)
        return
    remaining = iter(items)
    workers: list[BaseProcess] = []
    pipes: list[Connection] = []
    pending: deque[Connection] = deque()  # the pipes of the outstanding results, in the order of their items
    try:
        for item in islice(remaining, num_workers):
            worker, pipe = _started_worker(function)
            workers.append(worker)
            pipes.append(pipe)
            _send(item, pipe, pending)
        for pipe, item in zip(pipes, remaining, strict=False):
            _send(item, pipe, pending)
        while pending:
            pipe = pending.popleft()
            with _death_named():
                error, result = pipe.recv()
            if error is not None:
                raise error
            for item in islice(remaining, 1):
                _send(item, pipe, pending)
            yield result
    finally:
        for worker, pipe in zip(workers, pipes, strict=True):
            worker.kill()
            worker.join()
            pipe.close()


def _started_worker(function: Callable[[Any], object]) -> tuple[BaseProcess, Connection]:
    # One pipe per worker: with a shared queue, a worker that is killed while it writes would leave the reader waiting for
    # the rest, because the others keep the queue open.
    context = multiprocessing.get_context("spawn")
    pipe, of_worker = context.Pipe()
    worker = context.Process(target=_work, args=(function, of_worker), daemon=True)
    with _signals_held_back():
        worker.start()
    of_worker.close()
    return worker, pipe


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Defer SIGINT and SIGTERM until the block ends; a process started in the block never handles them.

    They may be sent to the whole process group, in which only the parent handles them. A start that they interrupt would
    leave an untracked process, which prints a traceback.
    """
    resource_tracker.ensure_running()  # it would otherwise be started with the first process and reset the mask
    arrived: list[int] = []
    before = {each: handler for each in _SIGNALS if (handler := signal.getsignal(each)) is not None}
    in_main = threading.current_thread() is threading.main_thread()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # the new process inherits it
    try:
        if (
            in_main
        ):  # a signal received by another thread, which has its own mask, is handled in the main thread
            for each in before:
                signal.signal(each, lambda number, _: arrived.append(number))
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # blocked signals are delivered now
        if in_main:
            for each, handler in before.items():
                signal.signal(each, handler)
    for number in arrived:
        signal.raise_signal(number)


def _send(item: object, pipe: Connection, pending: deque[Connection]) -> None:
    with _death_named():
        pipe.send(item)
    pending.append(pipe)


@contextmanager
def _death_named() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError):
        raise DataError(
            "a process that generates data was killed (out of memory?); nothing was kept"
        ) from None


def _work(function: Callable[[Any], object], pipe: Connection) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):  # the parent has ended
        while True:
            item = pipe.recv()
            try:
                answer: tuple[Exception | None, object] = (None, function(item))
            except Exception as error:
                answer = (error, None)
            pipe.send(answer)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)
