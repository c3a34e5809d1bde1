"""The lease: the right of one driver at a time to write a study."""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from proxytune.tuning.errors import HeldError
from proxytune.tuning.store.errors import storage_errors

LEASE_SECONDS = 30.0
"""A lease that was not renewed for this long is free, whoever holds it."""
RENEWAL_SECONDS = 5.0

leases = sa.Table(
    "proxytune_lease",
    sa.MetaData(),
    sa.Column("study", sa.String(255), primary_key=True),
    sa.Column("token", sa.String(64), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
)


class Lease:
    """The right to write a study, renewed in the background until it is released.

    Free when nobody holds it, when it was not renewed for LEASE_SECONDS, or when its holder was a process of this
    machine that is gone. `lost` turns true, and `on_lost` is called, if another driver has taken it over (after a
    long sleep, say).
    """

    def __init__(self, storage: RDBStorage, study: str) -> None:
        self._engine = storage.engine
        self._study = study
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self.lost = False
        self.on_lost: Callable[[], None] = lambda: None

    def acquire(self) -> None:
        """Take the lease and keep it.

        Raises:
            HeldError: another driver holds it, and which.
            StorageError: the storage fails.
        """
        mine = {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "expires": time.time() + LEASE_SECONDS,
        }
        with storage_errors():
            row = self._holder()
            if row is None:
                try:
                    with self._engine.begin() as connection:
                        connection.execute(leases.insert().values(study=self._study, **mine))
                    self._thread.start()
                    return
                except sa.exc.IntegrityError:
                    row = self._holder()  # somebody was faster
            if row is None:
                raise HeldError(f"study {self._study} was held a moment ago; try again")
            if row.expires > time.time() and not _gone(row.host, row.pid):
                raise HeldError(
                    f"study {self._study} is held by process {row.pid} on {row.host}; stop that one first"
                )
            with self._engine.begin() as connection:
                taken = connection.execute(
                    leases.update()
                    .where(leases.c.study == self._study, leases.c.token == row.token)
                    .values(**mine)
                )
            if taken.rowcount != 1:
                raise HeldError(f"study {self._study} has just been taken by another driver")
        self._thread.start()

    def release(self) -> None:
        """Give the lease back. Never raises: one that cannot be deleted runs out by itself."""
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            with self._engine.begin() as connection:
                connection.execute(leases.delete().where(*self._own()))
        except SQLAlchemyError:
            pass

    def _own(self) -> tuple[Any, ...]:
        return (leases.c.study == self._study, leases.c.token == self._token)

    def _holder(self) -> Any:
        with self._engine.connect() as connection:
            return connection.execute(leases.select().where(leases.c.study == self._study)).first()

    def _renew(self) -> None:
        while not self._released.wait(RENEWAL_SECONDS):
            try:
                with self._engine.begin() as connection:
                    renewed = connection.execute(
                        leases.update().where(*self._own()).values(expires=time.time() + LEASE_SECONDS)
                    )
            except SQLAlchemyError:
                continue  # a busy or restarting database; the next renewal may succeed
            if renewed.rowcount != 1:
                self.lost = True
                self.on_lost()
                return


def driver_of(storage: RDBStorage, study: str) -> str | None:
    """Which process holds the study's lease, if one does.

    Raises:
        StorageError: the storage fails.
    """
    with storage_errors(), storage.engine.connect() as connection:
        row = connection.execute(leases.select().where(leases.c.study == study)).first()
    if row is None or row.expires <= time.time() or _gone(row.host, row.pid):
        return None
    return f"process {row.pid} on {row.host}"


def _gone(host: str, pid: int) -> bool:
    """Whether the process ran on this machine and does not any more."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
