"""SIGINT and SIGTERM end a command by KeyboardInterrupt, but not in the middle of a transaction.

An exception that a signal raises within SQLAlchemy leaves a connection that cannot be used: what is stored on the way out
fails then, and its error hides the interruption. So work with a database is `uninterrupted`.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = signal.SIGINT, signal.SIGTERM


class _State:
    """Of the main thread, which alone handles signals."""

    depth = 0  # of `uninterrupted`
    pending = False


def _handle(_number: int, _frame: FrameType | None) -> None:
    if _State.depth and not _State.pending:
        _State.pending = True
        return
    _State.pending = False
    raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt in the main thread while the context is held, or `uninterrupted` ends."""
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
    """Let a signal wait for the end of the context; a second one does not wait. Contexts may lie in each other.

    Raises:
        KeyboardInterrupt: at the end of the outermost context, if there was a signal.
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
    """Raise the KeyboardInterrupt that waits for the end of `uninterrupted`, if one does: for long waits in it."""
    if threading.current_thread() is threading.main_thread() and _State.pending:
        _State.pending = False
        raise KeyboardInterrupt
