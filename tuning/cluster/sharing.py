"""Several studies on one Ray cluster: each driver publishes its claim and computes its own share.

Drivers of one cluster may have different databases and folders, and an actor would be an additional process that is lost
with its node. Each driver therefore keeps a row in the key-value table of Ray's GCS and renews it. Clocks of other hosts
are not used: a row that has not changed for GONE_SECONDS by the reader's clock belongs to a dead driver. All drivers
apply the same rule (search/shares.py) to the same rows, so no coordinator is needed. Rows may be a few seconds old; a
trial without room then waits in Ray.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace

from proxytune.tuning.cluster.ray_private import delete_row, put_row, read_rows
from proxytune.tuning.cluster.session import RaySession
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.search.shares import Claim, explain, shares
from proxytune.tuning.search.steering import Share
from proxytune.tuning.store.steering import terminal_user
from proxytune.tuning.store.study import Study

BEAT_SECONDS = 2.0
GONE_SECONDS = 15.0
_LEAVE_SECONDS = 5.0  # for removing the row from a cluster that may have died


class Board:
    """The claims of the studies on the connected cluster, as one driver reads them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats = 0
        self._arrival: int | None = None
        self._changed: dict[str, tuple[bytes, float]] = {}  # content of each row and time of its change

    def exchange(self, claim: Claim) -> list[Claim]:
        """Publish a claim, with its `arrival` set here; return the claims of all live drivers, this one first."""
        if self._arrival is None:
            self._arrival = 1 + max((other.arrival for other in self._read()), default=0)
        self._beats += 1
        claim = replace(claim, arrival=self._arrival)
        put_row(claim.study, json.dumps({"beat": self._beats, "claim": asdict(claim)}).encode())
        return [claim, *(other for other in self._read() if other.study != claim.study)]

    def _read(self) -> list[Claim]:
        now, rows = self._clock(), read_rows()
        before = self._changed
        self._changed = {
            study: before[study] if study in before and before[study][0] == row else (row, now)
            for study, row in rows.items()
        }
        claims = []
        for row, since in self._changed.values():
            if now - since < GONE_SECONDS:
                with suppress(ValueError, TypeError, KeyError):  # written by another version of proxytune
                    claims.append(Claim(**json.loads(row)["claim"]))
        return claims


class Sharing:
    """Keeps one study's claim and share up to date."""

    def __init__(
        self, controller: StudyController, study: Study, session: RaySession, resources: dict[str, float]
    ) -> None:
        """`resources` are the resources of a trial that does not share a GPU."""
        self._controller, self._session, self._resources = controller, session, resources
        self._study, self._priority = study.id, study.spec.resources.priority
        self._name = f"{study.name} of {terminal_user()}"
        self._board = Board()
        self._given = 0

    def beat(self) -> None:
        """Publish the study's current claim and update its share."""
        claim = Claim(
            study=self._study,
            name=self._name,
            priority=self._priority,
            slots=self._slots(),
            demand=self._controller.demand,
            share=self._given,
            arrival=0,
        )
        claims = self._board.exchange(claim)
        given = shares(claims)
        self._given = given[self._study]
        alone = len(claims) == 1
        share = None if alone else Share(self._given, explain(claims, given, self._study))
        self._controller.steering.share = share

    def leave(self) -> None:
        delete_row(self._study)

    def _slots(self) -> int:
        """Trials that the cluster could run at once; packed trials count with their current average share of a GPU."""
        needs, taken = self._resources, self._controller.gpus_taken
        if taken:
            needs = needs | {"gpu": taken / max(1, len(self._controller.live))}
        return self._session.slots(needs, None)


@contextmanager
def sharing(
    controller: StudyController, study: Study, session: RaySession, resources: dict[str, float]
) -> Iterator[None]:
    """Share the cluster with other studies within this context; the share is set before the first trial starts."""
    part = Sharing(controller, study, session, resources)
    part.beat()
    over = threading.Event()

    def renew() -> None:
        while not over.wait(BEAT_SECONDS):
            with suppress(Exception):  # the GCS does not respond; watch.py detects whether it has died
                part.beat()
        with suppress(Exception):
            part.leave()

    thread = threading.Thread(target=renew, name="sharing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_LEAVE_SECONDS)
