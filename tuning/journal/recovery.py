"""Recovery of a lost or damaged journal from the study's storage and the checkpoints.

The storage holds each trial's parameters, start, end, outcome, the objective at each report and the complete last report;
a checkpoint holds a complete report, too. Lost are the other metrics of earlier reports, their times (spread evenly
here), the nodes of the trial and its existing runs in MLflow. A recovered journal is therefore a new study in MLflow; a
notice is shown if the old one still exists.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from proxytune.tuning.errors import InputError
from proxytune.tuning.journal.events import (
    Reported,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialEvent,
    TrialStarted,
)
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import JOURNAL, study_of_journal
from proxytune.tuning.spec.outcome import Outcome, StudyStatus
from proxytune.tuning.spec.ranking import sign
from proxytune.tuning.store.attributes import ATTEMPT, END, JOURNAL_ID, rung_entries
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.summary import is_finished

if TYPE_CHECKING:
    from proxytune.tuning.store.study import Study


def open_journal(study: "Study", make: Callable[..., Outbox] = Outbox) -> Outbox:
    """Open the study's journal for writing. The storage holds its id, which is needed to repair a damaged first record.

    `make` creates the outbox from the arguments of `Outbox`.

    Raises:
        InputError: the journal belongs to another study. It is left unchanged.
        HeldError: another process has the journal open.
        StorageError: the storage does not respond.
        OSError: the journal cannot be written.
    """
    with storage_errors():
        known = study.attributes.get(JOURNAL_ID)
    folder = study.folder / "outbox"
    owner = study_of_journal(folder)
    if owner is not None and owner != study.id:
        raise InputError(
            f"{folder / JOURNAL} is the journal of study {owner[:12]}, not of this one ({study.id[:12]}): restore the "
            f"journal, or move it away to have it recovered from the database"
        )
    outbox = make(folder, known, study_id=study.id or None)
    if outbox.id != known:
        with storage_errors():
            study.optuna.set_user_attr(JOURNAL_ID, outbox.id)
    return outbox


def recover(study: "Study", outbox: Outbox) -> int:
    """Append the events of started trials that are missing in the journal. Returns the number of recovered trials.

    Raises:
        StorageError: the storage does not respond.
        OSError: the journal or the checkpoints cannot be used.
    """
    started = [
        trial
        for trial in study.trials()
        if trial.datetime_start is not None
        and trial.user_attrs.get(END, {}).get("outcome") != Outcome.INFEASIBLE
    ]
    unknown = [trial for trial in started if trial.number not in outbox.trials]
    known = [trial for trial in started if trial.number in outbox.trials]
    num_repaired = sum(_repair(study, trial, outbox) for trial in known)
    if unknown:
        _append_unknown(study, unknown, outbox)
    return len(unknown) + num_repaired


def _repair(study: "Study", trial: FrozenTrial, outbox: Outbox) -> bool:
    """Append reports, and the end, that a power failure removed from a trial's events. Returns whether any were missing."""
    if outbox.has_ended(trial.number):
        return False
    appended = False
    for event in _trial_events(study, trial):
        if isinstance(event, Reported) or (isinstance(event, TrialEnded) and event.outcome.is_final):
            appended |= outbox.append(event)
    return appended


def _append_unknown(study: "Study", trials: Sequence[FrozenTrial], outbox: Outbox) -> None:
    events: list[TrialEvent] = [event for trial in trials for event in _trial_events(study, trial)]
    events.sort(key=lambda event: event.time_ms)  # stable: the order within a trial is kept
    if not outbox.trials:
        spec = study.spec.model_dump(mode="json")
        outbox.append(
            StudyStarted(time_ms=events[0].time_ms, study=study.name, spec=spec, budget=study.budget)
        )
    for event in events:
        outbox.append(event)
    status = StudyStatus.FINISHED if is_finished(study) else StudyStatus.INTERRUPTED
    outbox.append(StudyEnded(time_ms=events[-1].time_ms, status=status))


def _trial_events(study: "Study", trial: FrozenTrial) -> Iterator[TrialEvent]:
    reports = _reports(study, trial)
    unended = {
        "outcome": Outcome.INTERRUPTED,
        "reason": "the journal of its driver was lost",
        "step": max(reports, default=0),
    }
    end: dict[str, Any] = trial.user_attrs.get(END, unended)
    start_ms = _milliseconds(trial.datetime_start)
    end_ms = _milliseconds(trial.datetime_complete) if trial.datetime_complete else start_ms
    number = trial.number
    yield TrialStarted(
        time_ms=start_ms,
        trial=number,
        params=trial.params,
        attempt=trial.user_attrs.get(ATTEMPT, 1),
        config=study.spec.trial(trial.params).model_dump(mode="json"),
    )
    for step, metrics in sorted(reports.items()):
        moment = start_ms + (end_ms - start_ms) * step // max(end["step"], 1)
        yield Reported(time_ms=min(moment, end_ms), trial=number, step=step, metrics=metrics)
    yield TrialEnded(
        time_ms=end_ms, trial=number, step=end["step"], outcome=Outcome(end["outcome"]), reason=end["reason"]
    )


def _reports(study: "Study", trial: FrozenTrial) -> dict[int, dict[str, Any]]:
    """The known metrics of each report: the objectives, and all metrics of the last report and of kept checkpoints."""
    objectives = study.spec.search.objectives
    reports: dict[int, dict[str, Any]] = {}
    for step, entry in rung_entries(trial).items():
        reports[step] = {
            name: sign(direction) * value
            for (name, direction), value in zip(objectives.items(), entry["values"], strict=True)
        }
    for step, value in trial.intermediate_values.items():
        reports[step] = {next(iter(objectives)): value}
    for state in study.checkpoints(trial).readable():
        report = state["report"]
        if report is not None and report["step"] in reports:
            reports[report["step"]] = report["metrics"]
    end = trial.user_attrs.get(END)
    if end and end["metrics"]:
        last = end["step"] if end["outcome"] == Outcome.COMPLETE else max(reports, default=end["step"])
        reports[last] = end["metrics"]
    return reports


def _milliseconds(moment: datetime | None) -> int:
    """Unix time in milliseconds. Optuna stores local time without a zone."""
    return int(moment.timestamp() * 1000) if moment else time.time_ns() // 1_000_000
