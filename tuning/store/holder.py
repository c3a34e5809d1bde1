"""Who holds a study, from the row of its lease."""

from dataclasses import dataclass
from datetime import datetime

from proxytune.tuning.store.process import ProcessIdentity

LEASE_SECONDS = 30.0
"""A lease that is not renewed for this long may be taken over."""


@dataclass(frozen=True)
class LeaseRow:
    """What is read of a study's row in the drivers' table (tables.py)."""

    renewed: datetime
    now: datetime  # by the database's clock
    epoch: int
    held: bool
    host: str
    pid: int
    place: str
    started: int


def driver(row: LeaseRow | None) -> str | None:
    """Which process holds the study's lease, if one does."""
    if row is None or not row.held or holder(row).is_running() is False:
        return None
    return described(row) if (row.now - row.renewed).total_seconds() < LEASE_SECONDS else None


def holder(row: LeaseRow) -> ProcessIdentity:
    """The process that took the lease last."""
    return ProcessIdentity(row.host, row.pid, row.place, row.started)


def described(row: LeaseRow) -> str:
    """That process in words."""
    return f"process {row.pid} on {row.host}"
