"""Where a study's truth is kept: Optuna's relational storage."""

import os
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.store.errors import first_line
from proxytune.tuning.store.lease import leases


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
        raise StorageError(f"{parsed.render_as_string(hide_password=True)}: {first_line(error)}") from None


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
    if sqlite and create and parsed.database:
        _make_private(Path(parsed.database))
    try:
        storage = RDBStorage(url, engine_kwargs=options, skip_table_creation=not create)
        if sqlite:
            sa.event.listen(storage.engine, "connect", _tune_sqlite)
            storage.engine.dispose()  # so that the next connection is a tuned one
        if create:
            leases.metadata.create_all(storage.engine)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError, RuntimeError) as error:
        raise StorageError(f"{parsed.render_as_string(hide_password=True)}: {first_line(error)}") from None
    return storage


def _make_private(path: Path) -> None:
    """Give the file, which is made if it is missing, to its owner alone; SQLite's own files beside it follow its mode.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.fchmod(file, 0o600)
        finally:
            os.close(file)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from None


def _tune_sqlite(connection: Any, _record: Any) -> None:
    """Readers beside the writer, and no fsync a statement: a killed process loses nothing, a power cut the last ones."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
