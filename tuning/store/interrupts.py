"""SIGINT and SIGTERM raise KeyboardInterrupt, but not during a transaction.

An exception raised by a signal within SQLAlchemy leaves the connection unusable. Writes during the shutdown would then
fail, and their error would hide the interruption. Database code therefore runs in `uninterrupted`.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = signal.SIGINT, signal.SIGTERM


class _State:
    """State of the main thread, the only one that handles signals."""

    depth = 0  # number of nested `uninterrupted` contexts
    pending = False


def _handle(_number: int, _frame: FrameType | None) -> None:
    if _State.depth and not _State.pending:
        _State.pending = True
        return
    _State.pending = False
    raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """In this context SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, deferred within `uninterrupted`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer a signal until the end of the context; a second signal is not deferred. Contexts can be nested.

    Raises:
        KeyboardInterrupt: at the end of the outermost context, if a signal arrived.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
        if not _State.depth:
            check_interrupted()


def check_interrupted() -> None:
    """Raise a KeyboardInterrupt that `uninterrupted` has deferred. To be called during long waits in that context."""
    if threading.current_thread() is threading.main_thread() and _State.pending:
        _State.pending = False
        raise KeyboardInterrupt
