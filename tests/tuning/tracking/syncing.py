"""Builders of a study's events, and a function that ships them."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from proxytune.tuning.journal.events import (
    Event,
    Reported,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialStarted,
)
from proxytune.tuning.spec.outcome import Outcome, StudyStatus
from proxytune.tuning.tracking.mlflow_sync import MlflowSync
from tests.benchmarks.synthetic import synthetic_spec

Fill = Callable[[Iterable[Event]], None]
"""The type of the fixture `fill`, which appends events to the study's journal."""


def wait_for(condition: Callable[[], Any], seconds: float = 600) -> None:
    """Poll until the condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition is still false after {seconds:g} s"
        time.sleep(0.05)


def synced(outbox_folder: Path, uri: str, experiment: str = "proxytune") -> MlflowSync:
    """Ship all waiting events."""
    sync = MlflowSync(outbox_folder, uri, experiment)
    while sync.ship():
        sync.acknowledge()
    return sync


def start(number: int, attempt: int = 1, **more: Any) -> TrialStarted:
    params = {"model.num_proxies": 128, "model.contrastive_temperature": 0.07, "model.dropout": 0.1}
    config = {"model": params, "training": {"steps": 100}}
    return TrialStarted(time_ms=1000, trial=number, params=params, config=config, attempt=attempt, **more)


def report(number: int, step: int, node: str | None = None, **metrics: float) -> Event:
    return Reported(time_ms=1000 + step, trial=number, step=step, metrics=metrics, node=node)


def end(number: int, outcome: str, step: int = 100, reason: str = "", **metrics: float) -> Event:
    return TrialEnded(
        time_ms=5000, trial=number, outcome=Outcome(outcome), reason=reason, step=step, metrics=metrics
    )


def study(name: str = "study", **more: Any) -> StudyStarted:
    spec = synthetic_spec(name, 4, steps=100)
    facts = {"git_revision": "abc", "data_fingerprint": "f" * 64, "conventions": {"padding": "0"}}
    return StudyStarted(time_ms=900, study=name, spec=spec, facts=facts, **more)


STUDY_END = StudyEnded(time_ms=6000, status=StudyStatus.FINISHED)
