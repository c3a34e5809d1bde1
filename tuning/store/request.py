"""Requests to the driver of a study, and queries for those that are still pending."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """Kind of a request. The comments show the content of its value."""

    START = "start"  # a driver is being started for the study
    STOP = "stop"  # {"now": bool}
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"  # {"trial": int}
    EXTEND = "extend"  # {"trials": int}, the new total


@dataclass(frozen=True)
class Request:
    """One request."""

    id: int
    kind: Kind
    value: dict[str, Any]
    who: str
    posted: datetime  # by the database's clock
    epoch: int | None  # of the driver that handled it


class RequestLog(ABC):
    """Read access to the requests of one study.

    Raises:
        StorageError: from any method, the storage fails.
    """

    @abstractmethod
    def all(self) -> list[Request]:
        """Every request, oldest first."""

    @abstractmethod
    def driver_epoch(self) -> int | None:
        """The epoch of the study's lease; None if it is not held."""

    def pending(self, *kinds: Kind) -> list[Request]:
        """The unhandled requests (of these kinds), oldest first."""
        return [one for one in self.all() if one.epoch is None and (not kinds or one.kind in kinds)]

    def holder_of(self, kind: Kind, *revoking: Kind) -> str | None:
        """The user who requested `kind` from the current or starting driver; None if not requested, or revoked since."""
        newest = next((one for one in reversed(self.all()) if one.kind in (kind, *revoking)), None)
        if newest is None or newest.kind is not kind or newest.epoch not in (None, self.driver_epoch()):
            return None
        return newest.who
