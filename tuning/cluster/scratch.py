"""A driver's scratch folder, which this user alone can enter, and those that killed drivers have left."""

import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "proxytune-"
_LOCK = "driver.lock"  # held while the driver lives
_END_SECONDS = 5.0


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of mode 0700, removed at exit; before, those of drivers that were killed are removed.

    Processes that use the folder are killed first: a worker or agent that still starts when its Ray is gone would make
    the folder again.

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
        _kill_processes_of(folder)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _kill_processes_of(folder: Path) -> None:
    def alive() -> list[int]:
        others = (path for path in Path("/proc").glob("[0-9]*") if path.name != str(os.getpid()))
        return [int(path.name) for path in others if _uses(path, f"{folder}/")]

    deadline = time.monotonic() + _END_SECONDS
    while (found := alive()) and time.monotonic() < deadline:
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _uses(process: Path, name: str) -> bool:
    """Whether a process below /proc has the name in its command line, or a file below it open (Ray's change the line)."""
    try:
        if os.fsencode(name) in (process / "cmdline").read_bytes():
            return True
        for file in (process / "fd").iterdir():
            with suppress(OSError):
                if os.readlink(file).startswith(name):
                    return True
    except OSError:  # it has ended, or is another user's
        pass
    return False


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
