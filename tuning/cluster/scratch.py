"""A driver's scratch folder, which this user alone can enter, and those that killed drivers have left."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "proxytune-"
_LOCK = "driver.lock"  # held while the driver lives


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of mode 0700, removed at exit; before, those of drivers that were killed are removed.

    It lies below /tmp where $TMPDIR is too long for Ray's sockets, whose paths may have 107 characters.
    """
    parent = tempfile.gettempdir()
    parent = parent if len(parent) <= 20 else "/tmp"
    _remove_abandoned(Path(parent))
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    lock = os.open(folder / f"{_LOCK}.new", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)  # nobody sees it unlocked
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    """Remove this user's scratch folders whose lock nobody holds."""
    for path in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):  # another user's, held, or removed by another driver
            if path.parent.lstat().st_uid != os.getuid():
                continue
            lock = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
            finally:
                os.close(lock)
