"""Where a study's truth is kept: Optuna's relational storage, and the lease that lets one driver write it."""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from proxytune.tuning.errors import HeldError, InputError, StorageError

LEASE_SECONDS = 30.0
"""A lease that was not renewed for this long is free, whoever holds it."""
RENEWAL_SECONDS = 5.0

_leases = sa.Table(
    "proxytune_lease",
    sa.MetaData(),
    sa.Column("study", sa.String(255), primary_key=True),
    sa.Column("token", sa.String(64), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
)


def database_url(folder: Path, database: str | None) -> str:
    """The SQLAlchemy URL of a study's storage: its own sqlite file, unless the study names a database."""
    return database or f"sqlite:///{folder / 'study.db'}"


def holds_studies(url: str) -> bool:
    """Whether there is an Optuna storage at the URL; nothing is created.

    Raises:
        StorageError: the database does not answer.
    """
    try:
        parsed = sa.engine.make_url(url)
    except sa.exc.ArgumentError:
        return True  # open_storage says what is wrong with it
    if parsed.get_backend_name() == "sqlite" and not (parsed.database and Path(parsed.database).exists()):
        return False
    try:
        engine = sa.create_engine(url)
        try:
            return sa.inspect(engine).has_table("studies")
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        raise StorageError(f"{parsed.render_as_string(hide_password=True)}: {_first_line(error)}") from None


def open_storage(url: str, *, create: bool) -> RDBStorage:
    """Optuna's storage at a URL.

    Raises:
        InputError: not a URL, or (without `create`) a sqlite file that is not there.
        StorageError: the database does not answer or refuses.
    """
    try:
        parsed = sa.engine.make_url(url)
    except sa.exc.ArgumentError:
        raise InputError(
            f"database: {url!r} is not an SQLAlchemy URL such as postgresql+psycopg://host/name"
        ) from None
    sqlite = parsed.get_backend_name() == "sqlite"
    if sqlite and not create and not (parsed.database and Path(parsed.database).exists()):
        raise InputError(f"{parsed.database}: no study there")
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    try:
        storage = RDBStorage(url, engine_kwargs=options, skip_table_creation=not create)
        if sqlite:
            sa.event.listen(storage.engine, "connect", _tune_sqlite)
            storage.engine.dispose()  # so that the next connection is a tuned one
        if create:
            _leases.metadata.create_all(storage.engine)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError, RuntimeError) as error:
        raise StorageError(f"{parsed.render_as_string(hide_password=True)}: {_first_line(error)}") from None
    return storage


def _tune_sqlite(connection: Any, _record: Any) -> None:
    """Readers beside the writer, and no fsync a statement: a killed process loses nothing, a power cut the last ones."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


@contextmanager
def storage_errors() -> Iterator[None]:
    """Speak of a storage that fails in one line.

    Raises:
        StorageError: instead of what SQLAlchemy or Optuna raised.
    """
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(f"the study's storage failed: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__  # Optuna's own words fit every error
    return next(iter(str(error).splitlines()), type(error).__name__)


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
                        connection.execute(_leases.insert().values(study=self._study, **mine))
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
                    _leases.update()
                    .where(_leases.c.study == self._study, _leases.c.token == row.token)
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
                connection.execute(_leases.delete().where(*self._own()))
        except SQLAlchemyError:
            pass

    def _own(self) -> tuple[Any, ...]:
        return (_leases.c.study == self._study, _leases.c.token == self._token)

    def _holder(self) -> Any:
        with self._engine.connect() as connection:
            return connection.execute(_leases.select().where(_leases.c.study == self._study)).first()

    def _renew(self) -> None:
        while not self._released.wait(RENEWAL_SECONDS):
            try:
                with self._engine.begin() as connection:
                    renewed = connection.execute(
                        _leases.update().where(*self._own()).values(expires=time.time() + LEASE_SECONDS)
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
        row = connection.execute(_leases.select().where(_leases.c.study == study)).first()
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
