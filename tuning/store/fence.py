"""The fence: only the driver with the newest lease writes the files of a study."""

import fcntl
import os
import threading
from pathlib import Path
from typing import Self

from proxytune.tuning.errors import HeldError, StorageError
from proxytune.tuning.store.lease import Lease

EPOCH = "epoch"


class Fence:
    """A context in which the folder's files may be written; reentrant in one thread.

    The file `epoch` holds the epoch of the newest driver. A lock on it makes check and write atomic.

    Raises:
        HeldError: on construction and on each entry, if another driver has taken over the study.
        StorageError: the folder cannot be written.
    """

    def __init__(self, folder: Path, lease: Lease) -> None:
        self._study, self._epoch = lease.study, str(lease.epoch).encode()
        self._thread_lock = threading.RLock()
        self._depth = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(folder / EPOCH, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(f"{folder}: {error.strerror}") from None
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            lease.check()  # under the lock: an older driver must not overwrite the epoch of a newer one
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, self._epoch, 0)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def __enter__(self) -> Self:
        self._thread_lock.acquire()
        try:
            if not self._depth:
                fcntl.flock(self._file, fcntl.LOCK_EX)
                if os.pread(self._file, 20, 0) != self._epoch:
                    fcntl.flock(self._file, fcntl.LOCK_UN)
                    raise HeldError(f"study {self._study} was taken over by another driver")
            self._depth += 1
        except BaseException:
            self._thread_lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._thread_lock.release()

    def close(self) -> None:
        os.close(self._file)
