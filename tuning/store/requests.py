"""Requests to the driver of a study: numbered rows that a driver handles once, in order, and marks with its epoch.

A start deletes nothing. It supersedes earlier requests: those before the newest pending `start` request if there is one,
else those before the driver's process started.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage

from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.request import Kind, Request, RequestLog
from proxytune.tuning.store.tables import drivers, requests

SUPERSEDED_BY_START = (Kind.STOP, Kind.PAUSE, Kind.RESUME)
SUPERSEDED = 0
"""Stored instead of a driver's epoch, which counts from 1: the request was not executed."""


class Requests(RequestLog):
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

    def all(self) -> list[Request]:
        query = requests.select().where(requests.c.study == self._study_id)
        with storage_errors(), self._engine.connect() as connection:
            rows = connection.execute(query.order_by(requests.c.id)).all()
        return [Request(row.id, Kind(row.kind), row.value, row.who, row.posted, row.epoch) for row in rows]

    def driver_epoch(self) -> int | None:
        query = sa.select(drivers.c.epoch).where(drivers.c.study == self._study, drivers.c.held)
        with storage_errors(), self._engine.connect() as connection:
            return connection.execute(query).scalar()

    def handled(self, handled: Sequence[Request]) -> None:
        """Mark requests with the epoch of the study's driver. Called by the driver."""
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
        """Mark the requests that the start of a driver supersedes, and return them without the `start` request.

        Args:
            age: seconds since the driver's process started.
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
