"""The lease: the exclusive right of one driver to write a study, enforced by fencing.

Each lease has an epoch, one higher than that of the lease before. Every commit of the holder's connections checks in
the same transaction that its epoch is still the newest, so a driver that was suspended longer than its lease writes
nothing afterwards. A silent holder is replaced without comparing clocks: its process has ended, or its lease was not
renewed while the claimant watched.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from proxytune.tuning.errors import HeldError
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.holder import LEASE_SECONDS, described, driver, holder
from proxytune.tuning.store.interrupts import check_interrupted, uninterrupted
from proxytune.tuning.store.process import ProcessIdentity
from proxytune.tuning.store.tables import drivers

RENEWAL_SECONDS = 5.0
WATCH_SECONDS = 0.2
_WRITES = ("INSERT", "UPDATE", "DELETE")


class Lease:
    """The right to write a study, renewed in the background until it is released.

    If another driver takes over the study, `lost` becomes true and `on_lost` is called. `epoch` is the fencing token.
    """

    def __init__(self, storage: RDBStorage, study: str) -> None:
        self.storage = storage
        self.study = study
        self.epoch = 0
        self.lost = False
        self.on_lost: Callable[[], None] = lambda: None
        self._engine = storage.engine
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def acquire(self) -> None:
        """Acquire the lease and renew it until `release`.

        Waits up to LEASE_SECONDS if the holder's process is not visible from here.

        Raises:
            HeldError: another driver holds the lease. Nothing is changed.
            StorageError: the storage fails.
        """
        with storage_errors():
            row = self._row() or self._first_row()
            if row.held:
                row = self._watch(row)
            own = ProcessIdentity.own()
            with self._engine.begin() as connection:
                taken = connection.execute(
                    drivers.update()
                    .where(
                        self._mine,
                        *(drivers.c[name] == getattr(row, name) for name in ("epoch", "held", "renewals")),
                    )
                    .values(**vars(own), epoch=row.epoch + 1, held=True, renewals=0, renewed=_now())
                )
            if taken.rowcount != 1:
                raise HeldError(f"study {self.study} has just been taken by another driver")
        self.epoch = row.epoch + 1
        sa.event.listen(self._engine, "before_cursor_execute", _note_write)
        sa.event.listen(self._engine, "rollback", _forget_write)
        sa.event.listen(self._engine, "commit", self._check_commit)
        self._thread.start()

    def release(self) -> None:
        """Release the lease. Never raises: a lease that cannot be released expires."""
        self._released.set()
        if not self.epoch:
            return
        self._thread.join()
        sa.event.remove(self._engine, "commit", self._check_commit)
        try:
            with uninterrupted(), self._engine.begin() as connection:
                connection.execute(
                    drivers.update().where(self._mine, drivers.c.epoch == self.epoch).values(held=False)
                )
        except SQLAlchemyError:
            pass

    def check(self) -> None:
        """Check that this is still the newest lease.

        Raises:
            HeldError: another driver has taken over the study.
            StorageError: the storage fails.
        """
        with storage_errors(), self._engine.connect() as connection:
            self._check(connection)

    @property
    def _mine(self) -> Any:
        return drivers.c.study == self.study

    def _row(self) -> Any:
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(drivers, _now().label("now")).where(self._mine))
            return found.first()

    def _first_row(self) -> Any:
        try:
            with self._engine.begin() as connection:
                connection.execute(
                    drivers.insert().values(study=self.study, epoch=0, held=False, renewed=_now())
                )
        except sa.exc.IntegrityError:
            pass  # another claimant was faster
        return self._row()

    def _watch(self, row: Any) -> Any:
        """Wait until the holder has ended or is known to be silent, and return its row.

        Raises:
            HeldError: the holder is alive.
        """
        deadline = time.monotonic() + LEASE_SECONDS
        first = row
        while True:
            running = holder(row).is_running()
            if not row.held or running is False:
                return row
            changed = (row.epoch, row.renewals) != (first.epoch, first.renewals)
            fresh = 0 <= (row.now - row.renewed).total_seconds() < LEASE_SECONDS
            if changed or (running and fresh):
                raise HeldError(f"study {self.study} is held by {described(row)}; stop that one first")
            if time.monotonic() > deadline:
                return row
            check_interrupted()
            time.sleep(WATCH_SECONDS)
            row = self._row()

    def _renew(self) -> None:
        while not self._released.wait(RENEWAL_SECONDS):
            try:
                with self._engine.begin() as connection:
                    connection.execute(
                        drivers.update()
                        .where(self._mine, drivers.c.epoch == self.epoch)
                        .values(renewals=drivers.c.renewals + 1, renewed=_now())
                    )
            except SQLAlchemyError:
                continue  # a busy or restarting database; the next renewal may succeed
            except HeldError:
                self.lost = True
                self.on_lost()
                return

    def _check_commit(self, connection: sa.Connection) -> None:
        if connection.info.pop("writes", False):
            self._check(connection)

    def _check(self, connection: sa.Connection) -> None:
        """Compare epochs. If the database locks rows, the row stays locked until the transaction ends."""
        newest = sa.select(drivers.c.epoch).where(self._mine).with_for_update(read=True)
        if connection.execute(newest).scalar() != self.epoch:
            raise HeldError(f"study {self.study} was taken over by another driver")


def driver_of(storage: RDBStorage, study: str) -> str | None:
    """Description of the process that holds the study's lease; None if the lease is not held.

    Raises:
        StorageError: the storage fails.
    """
    with storage_errors(), storage.engine.connect() as connection:
        row: Any = connection.execute(
            sa.select(drivers, _now().label("now")).where(drivers.c.study == study)
        ).first()
    return driver(row)


def _now() -> Any:
    return sa.func.current_timestamp(type_=sa.DateTime(timezone=True))


def _note_write(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
    if statement.lstrip()[:6].upper() in _WRITES:
        connection.info["writes"] = True


def _forget_write(connection: sa.Connection) -> None:
    if not connection.invalidated:  # `info` of an invalidated connection raises
        connection.info.pop("writes", None)
