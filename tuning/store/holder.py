"""The holder of a study's lease."""

from dataclasses import dataclass
from datetime import datetime

from proxytune.tuning.store.process import ProcessIdentity

LEASE_SECONDS = 30.0
"""A lease that is not renewed for this long may be taken over."""


@dataclass(frozen=True)
class LeaseRow:
    """The fields read from a study's row in the drivers' table (tables.py)."""

    renewed: datetime
    now: datetime  # by the database's clock
    epoch: int
    held: bool
    host: str
    pid: int
    place: str
    started: int


def driver(row: LeaseRow | None) -> str | None:
    """Description of the process that holds the study's lease; None if the lease is not held."""
    if row is None or not row.held or holder(row).is_running() is False:
        return None
    return described(row) if (row.now - row.renewed).total_seconds() < LEASE_SECONDS else None


def holder(row: LeaseRow) -> ProcessIdentity:
    """The process that acquired the lease last."""
    return ProcessIdentity(row.host, row.pid, row.place, row.started)


def described(row: LeaseRow) -> str:
    """Description of that process."""
    return f"process {row.pid} on {row.host}"
