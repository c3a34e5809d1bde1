"""Studies read and steered through the tables of a database without Optuna, for short-running commands.

Private in Optuna: the tables and their encoding of parameters and values. Missing: a fast reader. Optuna's own loads
SQLAlchemy's mapper and takes 1.1 s of CPU before the first row. A schema other than SCHEMA_VERSION, another kind of
database and every error are left to Optuna (`read_study`).
`tests/tuning/store/test_table_study.py` checks that both readers return the same.
"""

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

from proxytune.tuning.errors import StorageError, one_line
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.holder import LeaseRow, driver
from proxytune.tuning.store.request import Kind, Request, RequestLog
from proxytune.tuning.store.stored_study import (
    SPEC,
    StoredStudy,
    database_url,
    no_study,
    stored_spec,
    study_url,
)

SCHEMA_VERSION = 12  # Optuna's own, in version_info
_NOT_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
_Select = Callable[..., Sequence[Any]]


class State(IntEnum):
    """Optuna's TrialState."""

    RUNNING = 0
    COMPLETE = 1
    PRUNED = 2
    FAIL = 3
    WAITING = 4


@dataclass
class TableTrial:
    """The fields of Optuna's FrozenTrial that are used."""

    number: int
    state: State
    datetime_start: datetime | None  # local time without a zone, as in Optuna
    datetime_complete: datetime | None
    values: list[float] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    intermediate_values: dict[int, float] = field(default_factory=dict)

    @property
    def last_step(self) -> int | None:
        return max(self.intermediate_values, default=None)


@dataclass(frozen=True)
class Tables(RequestLog):
    """A snapshot of one study's tables."""

    attributes: dict[str, Any]
    trials: list[TableTrial]
    requests: list[Request]
    lease: LeaseRow | None

    def all(self) -> list[Request]:
        return self.requests

    def driver_epoch(self) -> int | None:
        return self.lease.epoch if self.lease is not None and self.lease.held else None


class TableStudy(StoredStudy):
    """A snapshot of a study. Requests can be posted to its driver."""

    def __init__(self, spec: StudySpec, tables: Tables) -> None:
        self.spec = spec
        self._tables = tables

    @property
    def attributes(self) -> Mapping[str, Any]:
        return self._tables.attributes

    @property
    def requests(self) -> RequestLog:
        return self._tables

    def trials(self) -> list[TableTrial]:
        return self._tables.trials

    def post(self, kind: Kind, who: str, **value: Any) -> None:
        columns = "INSERT INTO proxytune_request (study, kind, value, who, posted)"
        request = (self.id, kind.value, json.dumps(value), who)
        try:
            with _connected(database_url(self.folder, self.spec.database), write=True) as execute:
                assert execute is not None, "its tables were read through the same URL"
                execute(f"{columns} VALUES (?, ?, ?, ?, CURRENT_TIMESTAMP)", *request)
        except Exception as error:
            if not _of_database(error):
                raise
            raise StorageError(f"the study's storage failed: {one_line(error)}") from None

    def driver(self) -> str | None:
        return driver(self._tables.lease)


def read_study(name: str, storage_folder: Path, database: str | None = None) -> StoredStudy:
    """Read an existing study.

    Raises:
        InputError: no study of that name (the message lists the existing studies), or it was not created by proxytune.
        StorageError: the storage does not respond.
    """
    study_url(name, storage_folder, database)
    study = find_study(name, storage_folder, database)
    if study is None:
        raise no_study(name, storage_folder, database)
    return study


def find_study(name: str, storage_folder: Path, database: str | None = None) -> StoredStudy | None:
    """Read the study of that name; None if it does not exist. Falls back to Optuna if the tables cannot be read directly.

    Raises:
        InputError: the study was not created by proxytune.
        StorageError: the storage does not respond.
    """
    url = database_url(storage_folder.absolute() / name, database)
    found = read_tables(url, name)
    if found is None:
        from proxytune.tuning.store import study

        return study.find_study(name, storage_folder, database)
    if name not in found:
        return None
    return TableStudy(stored_spec(found[name].attributes, name, storage_folder, database), found[name])


def read_tables(url: str, name: str | None = None) -> dict[str, Tables] | None:
    """The studies of a database by name, or only the study `name`; None: to be read by Optuna."""
    try:
        with _connected(url) as select:
            if select is None or select("SELECT schema_version FROM version_info") != [(SCHEMA_VERSION,)]:
                return None
            studies = select("SELECT study_id, study_name FROM studies")
            return {found: _study(select, key, found) for key, found in studies if name in (None, found)}
    except Exception as error:
        if not _of_database(error):
            raise
        return None  # if Optuna fails too, it reports the error


@contextmanager
def _connected(url: str, *, write: bool = False) -> Iterator[_Select | None]:
    """Yield a function that runs statements in one transaction, read-only unless `write`.

    Yields None for an unsupported database.
    """
    scheme, _, place = url.partition("://")
    if scheme == "sqlite" and place.startswith("/") and "?" not in place:
        # Read-only by pragma and not by the URI's mode: a connection of that mode leaves -wal and -shm files behind.
        uri = f"{Path(place[1:]).absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None)) as file:
            file.execute(f"PRAGMA query_only = {'OFF' if write else 'ON'}")
            file.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            yield lambda query, *values: file.execute(query, values).fetchall()
            file.execute("COMMIT")
    elif scheme == "postgresql+psycopg":
        import psycopg

        with psycopg.connect(f"postgresql://{place}") as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = not write
            yield lambda query, *values: _rows(connection.execute(query.replace("?", "%s"), values))
    else:
        yield None


def _rows(cursor: Any) -> Sequence[Any]:
    return cursor.fetchall() if cursor.description else []  # psycopg fetches nothing from an INSERT


def _of_database(error: Exception) -> bool:
    """Whether the error comes from a database or its missing driver; does not import psycopg."""
    return isinstance(error, sqlite3.Error | ImportError) or type(error).__module__.startswith("psycopg")


def _study(select: _Select, key: int, name: str) -> Tables:
    attributes = {
        attribute: json.loads(value)
        for attribute, value in select(
            "SELECT key, value_json FROM study_user_attributes WHERE study_id = ?", key
        )
    }
    if SPEC not in attributes:  # not created by proxytune; the database may lack our tables
        return Tables(attributes, [], [], None)
    of_study = "SELECT id, kind, value, who, posted, epoch FROM proxytune_request WHERE study = ? ORDER BY id"
    requests = [
        Request(id, Kind(kind), json.loads(value) if isinstance(value, str) else value, who, _time(at), epoch)
        for id, kind, value, who, at, epoch in select(of_study, attributes.get("id", ""))
    ]
    columns = "renewed, CURRENT_TIMESTAMP, epoch, held, host, pid, place, started"
    leases = [
        LeaseRow(_time(renewed), _time(now), *rest)
        for renewed, now, *rest in select(f"SELECT {columns} FROM proxytune_driver WHERE study = ?", name)
    ]
    return Tables(attributes, _trials(select, key), requests, leases[0] if leases else None)


def _trials(select: _Select, study: int) -> list[TableTrial]:
    """The study's trials by number."""
    columns = "trial_id, number, state, datetime_start, datetime_complete"
    rows = select(f"SELECT {columns} FROM trials WHERE study_id = ? ORDER BY number", study)
    trials = {
        key: TableTrial(number, State[state], _local(started), _local(ended))
        for key, number, state, started, ended in rows
    }

    def each(table: str, columns: str, order: str) -> Sequence[Any]:
        of_study = "trial_id IN (SELECT trial_id FROM trials WHERE study_id = ?)"
        return select(f"SELECT trial_id, {columns} FROM {table} WHERE {of_study} ORDER BY {order}", study)

    for key, name, value, kind in each(
        "trial_params", "param_name, param_value, distribution_json", "param_id"
    ):
        trials[key].params[name] = _parameter(value, json.loads(kind))
    for key, name, value in each("trial_user_attributes", "key, value_json", "trial_user_attribute_id"):
        trials[key].user_attrs[name] = json.loads(value)
    values: dict[int, list[float]] = defaultdict(list)
    for key, value, kind in each("trial_values", "value, value_type", "objective"):
        values[key].append(_NOT_FINITE.get(kind, value))
    for key, own in values.items():
        trials[key].values = own
    columns = "step, intermediate_value, intermediate_value_type"
    for key, step, value, kind in each("trial_intermediate_values", columns, "trial_intermediate_value_id"):
        trials[key].intermediate_values[step] = _NOT_FINITE.get(kind, value)
    return list(trials.values())


def _parameter(value: float, distribution: Mapping[str, Any]) -> Any:
    """The external value of a parameter. Names of earlier Optuna versions have the same prefix (IntUniformDistribution)."""
    if distribution["name"] == "CategoricalDistribution":
        return distribution["attributes"]["choices"][int(value)]
    return int(value) if distribution["name"].startswith("Int") else value


def _time(value: str | datetime) -> datetime:
    """A datetime; sqlite stores it as text."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _local(value: str | datetime | None) -> datetime | None:
    """Local time without a zone, from UTC without a zone."""
    return None if value is None else _time(value).replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
