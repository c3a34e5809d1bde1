"""The exclusive slot: training on a machine pauses while a speed is measured there.

Every `advance` of a trial holds `shared_slot`; a measurement holds `exclusive_slot`. It starts when the running updates
have ended and blocks further ones, of all studies of the same user on this machine. Drivers, Ray, shippers and other
programs are not blocked. The slots are two files with flock, which the kernel releases when a process is killed.
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
    """Train concurrently with other trials. Waits for a running or waiting measurement; else takes microseconds.

    Raises:
        OSError: the lock file in the machine's temporary folder cannot be used.
    """
    with _locked("gate", fcntl.LOCK_SH):
        pass  # a waiting measurement holds the gate, so that a sequence of trials cannot starve it
    with _locked("room", fcntl.LOCK_SH):
        yield


@contextmanager
def exclusive_slot() -> Iterator[None]:
    """Measure without other trainings. Must not be entered within `shared_slot`: it would wait for its own process.

    Raises:
        OSError: the lock file in the machine's temporary folder cannot be used.
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
    """Refuse a file that another user can open, who could then block every trial."""
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "accessible to other users", str(path))
