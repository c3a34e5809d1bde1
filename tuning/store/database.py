"""Optuna's relational storage, which holds the state of a study."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from filelock import FileLock
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.spec.locations import masked_url
from proxytune.tuning.store.errors import first_line
from proxytune.tuning.store.interrupts import uninterrupted
from proxytune.tuning.store.mounts import on_network
from proxytune.tuning.store.optuna_private import TrialStorage
from proxytune.tuning.store.tables import metadata, requests

PRIVATE = 0o600
_SCHEMA_LOCK = 0x70726F7879  # key of our advisory lock in PostgreSQL


@uninterrupted()
def holds_studies(url: str) -> bool:
    """Whether there is an Optuna storage at the URL. Nothing is created.

    Raises:
        StorageError: the database does not respond.
    """
    try:
        parsed = sa.engine.make_url(url)
    except sa.exc.ArgumentError:
        return True  # open_storage reports the error
    if (file := _sqlite_file(parsed)) is not None and not file.exists():
        return False
    try:
        engine = sa.create_engine(url)
        try:
            return sa.inspect(engine).has_table("studies")
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        raise StorageError(f"{masked_url(url)}: {first_line(error)}") from None


@uninterrupted()
def open_storage(url: str, *, create: bool) -> RDBStorage:
    """Open Optuna's storage at a URL. `create`: create missing tables, one process at a time.

    Raises:
        InputError: not a URL, or (without `create`) an sqlite file that does not exist.
        StorageError: the database does not respond or refuses.
    """
    try:
        parsed = sa.engine.make_url(url)
    except sa.exc.ArgumentError:
        raise InputError("database: not an SQLAlchemy URL such as postgresql+psycopg://host/name") from None
    file = _sqlite_file(parsed)
    if file is not None and not create and not file.exists():
        raise InputError(f"{file}: no study there")
    sqlite = parsed.get_backend_name() == "sqlite"
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    try:
        if create:
            _ensure_schema(url, file, options)
        storage = TrialStorage(url, engine_kwargs=options, skip_table_creation=True)
        if sqlite:
            shared = on_network(Path(parsed.database or ""))
            sa.event.listen(storage.engine, "connect", _tune_shared_sqlite if shared else _tune_sqlite)
            storage.engine.dispose()  # so that the next connection is tuned
    except (
        SQLAlchemyError,
        optuna.exceptions.StorageInternalError,
        ImportError,
        OSError,
        RuntimeError,
    ) as error:
        raise StorageError(f"{masked_url(url)}: {first_line(error)}") from None
    return storage


def _ensure_schema(url: str, file: Path | None, options: dict[str, Any]) -> None:
    """Create Optuna's tables and then ours, so that the presence of ours implies all tables."""
    if file is not None:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, PRIVATE))  # sqlite gives its other files the same mode
        file.chmod(PRIVATE)
    engine = sa.create_engine(url, **options)
    try:
        if sa.inspect(engine).has_table(requests.name):
            return
        with _schema_lock(engine, file):
            RDBStorage(url, engine_kwargs=options).engine.dispose()
            metadata.create_all(engine)
    finally:
        engine.dispose()


@contextmanager
def _schema_lock(engine: sa.Engine, file: Path | None) -> Iterator[None]:
    """Lock the creation of tables across processes. Only sqlite and PostgreSQL have such a lock."""
    if file is not None:
        with FileLock(file.with_name(f".{file.name}.lock"), mode=PRIVATE):
            yield
    elif engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_lock(_SCHEMA_LOCK)))
            yield  # the lock belongs to the session: the end of the transaction does not release it
            connection.execute(sa.select(sa.func.pg_advisory_unlock(_SCHEMA_LOCK)))
    else:
        yield


def _sqlite_file(url: sa.engine.URL) -> Path | None:
    """The file of an sqlite database; None for other databases and for an in-memory database."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def _tune_shared_sqlite(connection: Any, _record: Any) -> None:
    """For a network file system: a write-ahead log needs shared memory, which several machines do not have."""
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute("PRAGMA synchronous=FULL")


def _tune_sqlite(connection: Any, _record: Any) -> None:
    """Readers do not block the writer, and no fsync per statement: only a power failure loses the last statements."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
