"""Identity of a process: enough to tell, from the same boot and PID namespace, whether it still runs."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class ProcessIdentity:
    """A process of some machine.

    place: the machine's boot and the PID namespace, in which `pid` and `started` mean something; "" where the
    system reports neither. started: ticks after boot, so that a process that got the number of a dead one differs.
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
        """Whether it still runs; None: it cannot be seen from here."""
        if not self.place or self.place != _place():
            return None
        return _started(self.pid) == self.started


def process_age() -> float:
    """Seconds since this process was started; 0 where the system does not report it."""
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
    """Start of a process in ticks after boot; None: there is none, or it has ended and waits for its parent."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    state, ticks = fields[0], fields[19]  # fields 3 and 22 of proc(5)
    return None if state in "ZX" else int(ticks)
