"""The exclusive slot: training on a machine waits while a speed is measured there.

Every `advance` of a trial holds `shared_slot`; a measurement holds `exclusive_slot`, which begins when the running ones have
ended and holds back the next ones, of this and of other studies of the same user on this machine. Not held back: the
drivers, Ray, the shippers, and whatever else runs on the machine. Two files and flock: a killed process lets go.
"""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def shared_slot() -> Iterator[None]:
    """Train among others; waits for a measurement that runs or is about to. Costs microseconds otherwise.

    Raises:
        OSError: the machine's temporary folder refuses the lock.
    """
    with _locked("gate", fcntl.LOCK_SH):
        pass  # a measurement that waits for the room goes first, or trials one after the other would keep it out
    with _locked("room", fcntl.LOCK_SH):
        yield


@contextmanager
def exclusive_slot() -> Iterator[None]:
    """Measure alone. Not to be entered within `shared_slot`, for whose end it waits.

    Raises:
        OSError: the machine's temporary folder refuses the lock.
    """
    with _locked("gate", fcntl.LOCK_EX), _locked("room", fcntl.LOCK_EX):
        yield


@contextmanager
def _locked(name: str, mode: int) -> Iterator[None]:
    folder = Path(tempfile.gettempdir()) / f"proxytune-slot-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    _require_private(folder, folder.lstat())
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _require_private(folder / name, os.fstat(descriptor))
        fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)


def _require_private(path: Path, status: os.stat_result) -> None:
    """Another user who could open the file could hold up every trial."""
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "not this user's alone", str(path))
