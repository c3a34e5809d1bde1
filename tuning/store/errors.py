"""Errors of the storage in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from sqlalchemy.exc import SQLAlchemyError

from proxytune.tuning.errors import StorageError
from proxytune.tuning.store.interrupts import uninterrupted


@contextmanager
def storage_errors() -> Iterator[None]:
    """Speak of a storage that fails in one line. Signals wait for the end of the context.

    Raises:
        StorageError: instead of what SQLAlchemy or Optuna raised.
    """
    try:
        with uninterrupted():
            yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(f"the study's storage failed: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__  # Optuna's own words fit every error
    return next(iter(str(error).splitlines()), type(error).__name__)
