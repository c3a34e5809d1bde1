"""The processes of a soak."""

import os
from contextlib import suppress

import psutil

MARK = "PROXYTUNE_SOAK"  # in the environment of every process of a soak


SHIPPER = "tracking.shipping"


def is_shipper(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return SHIPPER in " ".join(process.cmdline())
    return False


def shippers(pid: int) -> list[psutil.Process]:
    return children(pid, SHIPPER)


def children(pid: int, word: str = "") -> list[psutil.Process]:
    """Processes below the driver with the word in their command line; all of them, also those that are being started."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if word in " ".join(process.cmdline()):
                    found.append(process)
    return found


def marked(name: str) -> list[psutil.Process]:
    """The processes of a soak, but for this one."""
    found = psutil.Process().children()  # forked ones do not show the environment that was set here
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process not in found and process.pid != os.getpid() and process.environ().get(MARK) == name:
                found.append(process)
    return found
