"""A lost or damaged journal, filled up from what the study's storage and the checkpoints know.

The storage keeps each trial's parameters, start, end, outcome, the objective at each report and the last report whole;
a checkpoint keeps a report whole, too. Not kept anywhere else: the other metrics of earlier reports, their times
(spread evenly here), where the trial ran, and which runs MLflow already has of it: what is written again is a new
study to MLflow, which says so where the old one is still there.
"""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from proxytune.tuning.journal.outbox import Event, Outbox
from proxytune.tuning.spec.ranking import sign
from proxytune.tuning.store.attributes import ATTEMPT, END, rung_entries
from proxytune.tuning.store.checkpoints import CorruptCheckpoint, checkpoint_paths, load_checkpoint
from proxytune.tuning.store.study import trial_folder

if TYPE_CHECKING:
    from proxytune.tuning.store.study import Study


def recover(study: "Study", outbox: Outbox) -> int:
    """Append the events of every begun trial that the journal has never heard of; the number of such trials.

    Raises:
        StorageError: the storage does not answer.
        OSError: the journal or the checkpoints cannot be used.
    """
    lost = [
        trial
        for trial in study.trials()
        if trial.datetime_start is not None
        and trial.number not in outbox.trials
        and trial.user_attrs.get(END, {}).get("outcome") != "infeasible"  # it has no run
    ]
    if not lost:
        return 0
    events = [event for trial in lost for event in _trial_events(study, trial)]
    events.sort(key=lambda event: event["time_ms"])  # stable: a trial's own order stays
    if not outbox.trials:
        spec = study.spec.model_dump(mode="json")
        begin = {"kind": "study", "time_ms": events[0]["time_ms"], "study": study.name}
        outbox.append(begin | {"spec": spec, "facts": {}})
    for event in events:
        outbox.append(event)
    ended = sum(END in trial.user_attrs for trial in study.trials())
    status = "finished" if ended >= study.budget else "interrupted"
    outbox.append({"kind": "study_end", "time_ms": events[-1]["time_ms"], "status": status, "summary": {}})
    return len(lost)


def _trial_events(study: "Study", trial: FrozenTrial) -> Iterator[Event]:
    reports = _reports(study, trial)
    unended = {
        "outcome": "interrupted",
        "reason": "its driver left no journal",
        "step": max(reports, default=0),
    }
    end: dict[str, Any] = trial.user_attrs.get(END, unended)
    start_ms = _milliseconds(trial.datetime_start)
    end_ms = _milliseconds(trial.datetime_complete) if trial.datetime_complete else start_ms
    head = {"trial": trial.number, "time_ms": start_ms}
    config = study.spec.trial(trial.params).model_dump(mode="json")
    attempt = trial.user_attrs.get(ATTEMPT, 1)
    yield {"kind": "trial", **head, "params": trial.params, "attempt": attempt, "config": config}
    for step, metrics in sorted(reports.items()):
        moment = start_ms + (end_ms - start_ms) * step // max(end["step"], 1)
        yield {"kind": "report", **head, "time_ms": min(moment, end_ms), "step": step, "metrics": metrics}
    yield {"kind": "end", **head, "time_ms": end_ms, "metrics": {}} | {
        key: end[key] for key in ("outcome", "reason", "step")
    }


def _reports(study: "Study", trial: FrozenTrial) -> dict[int, dict[str, Any]]:
    """The metrics of each report, as far as they are known: of the objectives, of kept checkpoints, of the last one."""
    objectives = study.spec.search.objectives
    reports: dict[int, dict[str, Any]] = {}
    for step, entry in rung_entries(trial).items():
        reports[step] = {
            name: sign(direction) * value
            for (name, direction), value in zip(objectives.items(), entry["values"], strict=True)
        }
    for step, value in trial.intermediate_values.items():
        reports[step] = {next(iter(objectives)): value}
    for path in checkpoint_paths(trial_folder(study.spec, trial.number)):
        try:
            report = load_checkpoint(path)["report"]
        except CorruptCheckpoint:
            continue
        if report is not None and report["step"] in reports:
            reports[report["step"]] = report["metrics"]
    end = trial.user_attrs.get(END)
    if end and end["metrics"]:
        last = end["step"] if end["outcome"] == "complete" else max(reports, default=end["step"])
        reports[last] = end["metrics"]
    return reports


def _milliseconds(moment: datetime | None) -> int:
    """Optuna keeps local time without a zone."""
    return int(moment.timestamp() * 1000) if moment else time.time_ns() // 1_000_000
