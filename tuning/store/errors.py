"""Conversion of database errors to one-line errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from sqlalchemy.exc import SQLAlchemyError

from proxytune.tuning.errors import StorageError
from proxytune.tuning.store.interrupts import uninterrupted


@contextmanager
def storage_errors() -> Iterator[None]:
    """Convert errors of the storage to StorageError. Signals are deferred until the context ends.

    Raises:
        StorageError: instead of the errors of SQLAlchemy or Optuna.
    """
    try:
        with uninterrupted():
            yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(f"the study's storage failed: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__  # Optuna's own message is the same for every error
    return next(iter(str(error).splitlines()), type(error).__name__)
