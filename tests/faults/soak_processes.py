"""The processes of a soak test."""

import os
from contextlib import suppress

import psutil

MARK = "PROXYTUNE_SOAK"  # environment variable of every process of a soak test


SHIPPER = "tracking.shipping"


def is_shipper(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return SHIPPER in " ".join(process.cmdline())
    return False


def shippers(pid: int) -> list[psutil.Process]:
    return children(pid, SHIPPER)


def children(pid: int, word: str = "") -> list[psutil.Process]:
    """Descendants of the driver with the word in their command line; without a word all, also those being started."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if word in " ".join(process.cmdline()):
                    found.append(process)
    return found


def marked(name: str) -> list[psutil.Process]:
    """All processes of the soak test except this one."""
    found = (
        psutil.Process().children()
    )  # a forked child does not show variables that were set in this process
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process not in found and process.pid != os.getpid() and process.environ().get(MARK) == name:
                found.append(process)
    return found
