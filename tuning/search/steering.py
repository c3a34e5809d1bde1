"""Steers a running study: requests from other terminals (posted by store/steering.py) and its share of the cluster."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import optuna

from proxytune.tuning.journal.events import BudgetChanged, Noted, Paused, Resumed
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.search.limits import Limits
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.store.attributes import BUDGET, WAITS
from proxytune.tuning.store.request import Kind, Request
from proxytune.tuning.store.requests import Requests

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Share:
    """The slots that the study may use. waits: which other studies limit them, and why; empty if none does."""

    slots: int
    waits: str = ""


class Steering:
    """Whether the study is stopping, paused or limited by other studies; handles the requests that change this.

    Attributes:
        stopping: why the study is being stopped, if it is.
        now: whether the stop interrupts running trials.
        paused_by: who paused the study, if it is paused.
        share: its share of the cluster, set by another thread; None: no other study uses this Ray.
    """

    def __init__(
        self,
        requests: Requests,
        study: optuna.Study,
        outbox: Outbox,
        limits: Limits,
        cancel: Callable[[int, str], bool],
    ) -> None:
        """`cancel` ends a trial on request; False: the trial is not assigned yet, and the request stays pending."""
        self._requests = requests
        self._study = study
        self._outbox = outbox
        self._limits = limits
        self._cancel = cancel
        self._polled = -math.inf
        self.stopping: str | None = None
        self.now = False
        self.paused_by: str | None = None
        self.share: Share | None = None
        self._waits: str = study.user_attrs.get(WAITS, "")

    def may_start(self, live: int) -> bool:
        """Whether another trial may start while `live` trials run."""
        return self.paused_by is None and (self.share is None or live < self.share.slots)

    def hand_back(self, live: int) -> tuple[str, Outcome] | None:
        """Reason and outcome for requeueing one of `live` running trials; None: it continues."""
        if self.stopping is not None and self.now:
            return self.stopping, Outcome.INTERRUPTED
        if self.paused_by is not None:
            return f"paused by {self.paused_by}", Outcome.PAUSED
        if self.share is not None and self.share.waits and live > self.share.slots:
            return f"released its slot to another study: {self.share.waits}", Outcome.INTERRUPTED
        return None

    def stop(self, reason: str, now: bool) -> None:
        """Request a stop. Safe to call from a signal handler."""
        self.stopping, self.now = reason, self.now or now

    def due(self) -> bool:
        """Whether requests are to be read again; True at most once a second."""
        if time.monotonic() - self._polled < POLL_SECONDS:
            return False
        self._polled = time.monotonic()
        return True

    def handle_requests(self) -> None:
        """Handle every pending request, and record which studies limit this one if that has changed."""
        self._requests.handled([request for request in self._requests.pending() if self._handle(request)])
        waits = self.share.waits if self.share is not None else ""
        if waits != self._waits:
            self._study.set_user_attr(WAITS, waits)
            self._outbox.append(Noted(text=waits or "no other study limits this study's slots any more"))
            self._waits = waits

    def _handle(self, request: Request) -> bool:
        """Handle one request; False: it stays pending."""
        who = request.who
        if request.kind is Kind.STOP:
            now = bool(request.value["now"])
            if self.stopping is None or (now and not self.now):
                self.stop(f"requested by {who}", now)
                self._outbox.append(Noted(who=who, text="stop now" if now else "stop"))
        elif request.kind is Kind.PAUSE and self.paused_by is None:
            self.paused_by = who
            self._outbox.append(Paused(who=who))
        elif request.kind is Kind.RESUME and self.paused_by is not None:
            self.paused_by = None
            self._outbox.append(Resumed(who=who))
        elif request.kind is Kind.EXTEND:
            self._set_budget(int(request.value["trials"]), who)
        elif request.kind is Kind.CANCEL:
            return self._cancel(int(request.value["trial"]), who)
        return True

    def _set_budget(self, trials: int, who: str) -> None:
        """Change the number of trials, at least to the number of started trials."""
        begun = sum(trial.datetime_start is not None for trial in self._study.get_trials(deepcopy=False))
        trials = max(trials, begun)
        if trials != self._limits.budget:
            self._outbox.append(BudgetChanged(who=who, trials=trials))
            self._limits.budget = trials
            self._study.set_user_attr(BUDGET, trials)
