"""Requests to the driver of a study: numbered rows that a driver handles once, in order, and marks with its epoch.

Nothing is cleared at a start. A start itself supersedes what was posted before it: before the newest `start` request
where one waits, else before the driver's process began.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage

from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.tables import drivers, requests


class Kind(StrEnum):
    """What is requested; in brackets, what the request's value holds."""

    START = "start"  # a driver is being started for the study
    STOP = "stop"  # {"now": bool}
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"  # {"trial": int}
    EXTEND = "extend"  # {"trials": int}, in all


SUPERSEDED_BY_START = (Kind.STOP, Kind.PAUSE, Kind.RESUME)
SUPERSEDED = 0
"""In the place of a driver's epoch, which counts from 1: no driver obeyed the request."""


@dataclass(frozen=True)
class Request:
    """One request."""

    id: int
    kind: Kind
    value: dict[str, Any]
    who: str
    posted: datetime  # by the database's clock
    epoch: int | None  # of the driver that handled it


class Requests:
    """The requests of one study.

    Raises:
        StorageError: from any method, the storage fails.
    """

    def __init__(self, storage: RDBStorage, study: str, study_id: str) -> None:
        self._engine = storage.engine
        self._study, self._study_id = study, study_id

    def post(self, kind: Kind, who: str, **value: Any) -> None:
        """Add a request."""
        with storage_errors(), self._engine.begin() as connection:
            connection.execute(
                requests.insert().values(
                    study=self._study_id,
                    kind=kind,
                    value=value,
                    who=who,
                    posted=sa.func.current_timestamp(),
                )
            )

    def pending(self, *kinds: Kind) -> list[Request]:
        """The requests (of these kinds) that no driver has handled, oldest first."""
        return self._read(requests.c.epoch.is_(None), *([requests.c.kind.in_(kinds)] if kinds else []))

    def newest(self, *kinds: Kind) -> Request | None:
        """The last request of these kinds, handled or not."""
        found = self._read(requests.c.kind.in_(kinds))
        return found[-1] if found else None

    def holder_of(self, kind: Kind, *revoking: Kind) -> str | None:
        """Who requested `kind` of the driver that holds the study or is starting, if nobody has revoked it since."""
        newest = self.newest(kind, *revoking)
        if newest is None or newest.kind is not kind or newest.epoch not in (None, self.driver_epoch()):
            return None
        return newest.who

    def driver_epoch(self) -> int | None:
        """The epoch of the study's lease while it is held."""
        query = sa.select(drivers.c.epoch).where(drivers.c.study == self._study, drivers.c.held)
        with storage_errors(), self._engine.connect() as connection:
            return connection.execute(query).scalar()

    def handled(self, handled: Sequence[Request]) -> None:
        """Mark requests with the epoch of the study's driver, which calls this."""
        self._mark(
            handled, sa.select(drivers.c.epoch).where(drivers.c.study == self._study).scalar_subquery()
        )

    def _mark(self, handled: Sequence[Request], epoch: Any) -> None:
        if not handled:
            return
        with storage_errors(), self._engine.begin() as connection:
            connection.execute(
                requests.update()
                .where(requests.c.id.in_([request.id for request in handled]))
                .values(epoch=epoch)
            )

    def begin(self, age: float) -> list[Request]:
        """Mark what the start of a driver supersedes; those requests but the `start` itself.

        Args:
            age: seconds since the driver was started.
        """
        with storage_errors(), self._engine.connect() as connection:
            now = connection.execute(
                sa.select(sa.func.current_timestamp(type_=sa.DateTime(timezone=True)))
            ).scalar_one()
        pending = self.pending(Kind.START, *SUPERSEDED_BY_START)
        starts = [request for request in pending if request.kind is Kind.START]
        began = now - timedelta(seconds=age)
        superseded = [
            request
            for request in pending
            if request.kind is not Kind.START
            and (request.id < starts[-1].id if starts else request.posted < began)
        ]
        self.handled(starts)
        self._mark(superseded, SUPERSEDED)
        return superseded

    def _read(self, *conditions: Any) -> list[Request]:
        query = requests.select().where(requests.c.study == self._study_id, *conditions)
        with storage_errors(), self._engine.connect() as connection:
            rows = connection.execute(query.order_by(requests.c.id)).all()
        return [Request(row.id, Kind(row.kind), row.value, row.who, row.posted, row.epoch) for row in rows]
