"""What the routes of one server share."""

import threading
from dataclasses import dataclass, field

from fastapi import Request

from proxytune.tuning.service import limits
from proxytune.tuning.service.limits import Slots
from proxytune.tuning.service.metrics import Metrics
from proxytune.tuning.service.runs import Runs
from proxytune.tuning.service.settings import Settings
from proxytune.tuning.service.studies import Studies


@dataclass(frozen=True)
class State:
    """The server's studies, its cluster, its counters, and whether it is leaving."""

    settings: Settings
    studies: Studies
    runs: Runs
    metrics: Metrics
    exports: Slots
    streams: Slots
    closing: threading.Event = field(default_factory=threading.Event)
    creating: threading.Lock = field(default_factory=threading.Lock)  # held while a study is created

    @classmethod
    def of(cls, settings: Settings) -> "State":
        studies = Studies(settings.storage, settings.database)
        exports, streams = Slots(limits.EXPORTS, "exports"), Slots(limits.STREAMS, "event streams")
        return cls(settings, studies, Runs(settings.address), Metrics(studies), exports, streams)


def state_of(request: Request) -> State:
    """The server's state, for a route."""
    state: State = request.app.state.proxytune
    return state


def who_asks(request: Request) -> str:
    """Whose token the request carries, as the study's event log says it."""
    return str(request.state.who)
