"""Identity of a process, by which processes of the same boot and PID namespace can check whether it still runs."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class ProcessIdentity:
    """A process of a machine.

    place: the machine's boot id and PID namespace, within which `pid` and `started` are valid; "" if the system does not
    report them. started: clock ticks after boot, so that a reused process id is detected.
    """

    host: str
    pid: int
    place: str
    started: int

    @classmethod
    def own(cls) -> Self:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), _place(), _started(os.getpid()) or 0)

    def is_running(self) -> bool | None:
        """Whether the process still runs; None: it is not visible from here."""
        if not self.place or self.place != _place():
            return None
        return _started(self.pid) == self.started


def process_age() -> float:
    """Seconds since this process was started; 0 if the system does not report it."""
    started = _started(os.getpid())
    if started is None:
        return 0.0
    uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    return max(0.0, uptime - started / os.sysconf("SC_CLK_TCK"))


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Start time of a process in clock ticks after boot; None: it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    state, ticks = fields[0], fields[19]  # fields 3 and 22 of proc(5)
    return None if state in "ZX" else int(ticks)
