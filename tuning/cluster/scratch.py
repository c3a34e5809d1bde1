"""A driver's private scratch folder, and the removal of folders left by killed drivers."""

import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SCRATCH = "PROXYTUNE_SCRATCH"
"""Environment variable with the folder's path, inherited by processes that Ray starts; set by `ray_session`."""
_PREFIX = "proxytune-"
_LOCK = "driver.lock"  # held while the driver lives
_END_SECONDS = 5.0


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Create a folder of mode 0700 and remove it at exit. Folders of killed drivers are removed first.

    Before removal, Ray's processes that use the folder are killed: a worker or agent that starts after its Ray has ended
    would create the folder again. Other processes with open files in it, such as a user's `tail` of a log, keep running.

    The folder is below /tmp if $TMPDIR is too long for Ray's sockets, whose paths are limited to 107 characters.
    """
    parent = tempfile.gettempdir()
    parent = parent if len(parent) <= 20 else "/tmp"
    _remove_abandoned(Path(parent))
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    lock = os.open(folder / f"{_LOCK}.new", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)  # other drivers never see it unlocked
        yield folder
    finally:
        _kill_rays_processes(folder)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _kill_rays_processes(folder: Path) -> None:
    def alive() -> list[int]:
        others = (path for path in Path("/proc").glob("[0-9]*") if path.name != str(os.getpid()))
        return [int(path.name) for path in others if _is_rays(path, folder)]

    deadline = time.monotonic() + _END_SECONDS
    while (found := alive()) and time.monotonic() < deadline:
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _is_rays(process: Path, folder: Path) -> bool:
    """Whether a process below /proc was started by the folder's Ray and uses the folder.

    Ray's agents overwrite their command line and environment with their title; they have files of the folder open.
    """
    try:
        title = (process / "cmdline").read_bytes()
        known = os.fsencode(f"{SCRATCH}={folder}") in (process / "environ").read_bytes().split(b"\0")
        if not known and not title.startswith(b"ray::"):
            return False
        name = f"{folder}/"
        if os.fsencode(name) in title:
            return True
        for file in (process / "fd").iterdir():
            with suppress(OSError):
                if os.readlink(file).startswith(name):
                    return True
    except OSError:  # the process has ended or belongs to another user
        pass
    return False


def _remove_abandoned(parent: Path) -> None:
    """Remove this user's scratch folders whose lock is free."""
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
