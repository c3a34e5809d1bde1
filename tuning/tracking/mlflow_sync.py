"""MLflow sync: writes a study's journal to runs in MLflow.

All operations are idempotent: runs are found or created by `mlflow_runs`; metrics have the step and time of their event,
and MLflow stores identical points once; tags, statuses and artifacts are overwritten. The process may be killed at any
point, and MLflow may be unavailable.
"""

import copy
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import requests
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from proxytune.tuning.errors import one_line
from proxytune.tuning.journal.counters import Counters
from proxytune.tuning.journal.events import (
    Confirmed,
    Event,
    JournalStarted,
    Paused,
    Reported,
    Resumed,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialEvent,
    TrialStarted,
)
from proxytune.tuning.journal.reading import read_all, read_events, sync_to_disk
from proxytune.tuning.spec.outcome import StudyStatus
from proxytune.tuning.tracking import optuna_tags, run_page
from proxytune.tuning.tracking.acknowledgement import Acknowledgement
from proxytune.tuning.tracking.links import study_table
from proxytune.tuning.tracking.mlflow_runs import MlflowRuns
from proxytune.tuning.tracking.views import TITLES, reads_views, view_path, view_tags

BATCH_BYTES = 1 << 20  # of the journal per portion: bounds memory and the work that a kill repeats
NOTE_SECONDS = 10  # interval at which the parent's description is updated
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE"}
"""Error codes of calls that fail again when they are retried."""


class MlflowSync:
    """Writes one journal to one MLflow experiment: a parent run for the study, a child run for each trial."""

    def __init__(self, folder: Path, uri: str, experiment: str) -> None:
        self.acknowledged = Acknowledgement.load(folder, uri, experiment)
        self.unacknowledged = False  # whether MLflow has events that are not in the saved acknowledgement
        self._folder = folder
        self._runs = MlflowRuns(folder, self.acknowledged)
        self._notice: str | None = None
        self._note_time = 0.0

    @property
    def notice(self) -> str | None:
        """A warning for the user that does not stop the shipping."""
        return self._notice or self._runs.notice

    def ship(self) -> bool:
        """Write the next portion of the journal to MLflow. Returns False if there is none.

        The portion is synced to disk first, so that after a power failure MLflow has no event that the journal lacks.

        Raises:
            Exception: any error of MLflow, the network or the disk. The next call repeats the portion.
        """
        portion = read_events(self._folder, self.acknowledged.offset, BATCH_BYTES)
        if portion.offset == self.acknowledged.offset:
            return False
        sync_to_disk(self._folder)
        if portion.problems:
            self._notice = portion.problems[0]
        self._ship(portion.events)
        self.acknowledged.advance(self._folder, portion.offset)
        self.unacknowledged = True
        return True

    def acknowledge(self) -> None:
        """Save that everything shipped so far is in MLflow."""
        self.acknowledged.error = self.notice
        self.acknowledged.save(self._folder)
        self.unacknowledged = False

    def save_error(self, text: str) -> None:
        """Save an error beside the outbox, for `proxytune show`."""
        if self.acknowledged.error != text:
            self.acknowledged.error = text
            self.acknowledged.save(self._folder)

    def remove_twins(self) -> None:
        """Delete empty duplicate runs (`MlflowRuns.remove_twins`)."""
        self._runs.remove_twins()

    def _ship(self, events: list[Event]) -> None:
        self._update_study(events)
        trials: dict[str, list[TrialEvent]] = {}
        for event in events:
            if isinstance(event, TrialStarted | Reported | TrialEnded):
                trials.setdefault(str(event.trial), []).append(event)
        self._runs.ensure(trials, dataset_input(self.acknowledged.study))
        counters = Counters(**copy.deepcopy(self.acknowledged.counters))  # a copy: this attempt may fail
        known = set(counters.running)
        points: list[Metric] = []
        last: dict[str, dict[str, float]] = {}
        for event in events:
            if isinstance(event, TrialEnded):
                last[str(event.trial)] = counters.last_values(event)
            values = counters.fold(event)
            if isinstance(event, TrialEnded | Confirmed):
                values |= run_page.confirmation_metrics(event) if isinstance(event, Confirmed) else {}
                points += [
                    Metric(key, value, event.time_ms, counters.num_ended) for key, value in values.items()
                ]
        for number, own in trials.items():
            self._ship_trial(number, own, counters, last.get(number, {}), is_new=number not in known)
        self._ship_study(events, points, counters)
        for number in trials.keys() - counters.running.keys():
            del self.acknowledged.trials[number]
        self.acknowledged.creating = []
        self.acknowledged.counters = asdict(counters)

    def _update_study(self, events: Iterable[Event]) -> None:
        study = self.acknowledged.study
        for event in events:
            if isinstance(event, JournalStarted):
                study["id"] = event.id
            elif isinstance(event, StudyStarted):
                study |= {"name": event.study, "spec": event.spec, "facts": event.facts}
                study.setdefault("start_ms", event.time_ms)
                study |= {"status": StudyStatus.RUNNING, "ended_because": ""}
            elif isinstance(event, StudyEnded):
                study |= {"status": event.status, "ended_because": event.reason}
            elif isinstance(event, Paused | Resumed):
                study["status"] = StudyStatus.PAUSED if isinstance(event, Paused) else StudyStatus.RUNNING
            elif isinstance(event, Confirmed):
                study["confirmation"] = event.model_dump(mode="json")

    # Content of the runs

    def _ship_trial(
        self,
        number: str,
        events: Sequence[TrialEvent],
        counters: Counters,
        last: Mapping[str, float],
        is_new: bool,
    ) -> None:
        run_id, what = self.acknowledged.trials[number], f"trial {number}"
        points: list[Metric] = []
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        for event in events:
            if isinstance(event, TrialStarted):
                if is_new and not params:
                    params = run_page.trial_params(event)
                    with self._skipping_refused(what):
                        self._runs.client.log_dict(run_id, event.config or {}, "config.json")
                tags |= run_page.start_tags(event)
                continue
            values = dict(event.metrics)
            if isinstance(event, Reported):
                tags |= run_page.worker_tags(event)
            else:
                tags |= run_page.end_tags(event, counters)
                tags |= optuna_tags.end_tags(event.outcome, last, counters.constraints)
                values |= optuna_tags.end_metrics(event.outcome, last, counters.directions)
            points += [Metric(key, value, event.time_ms, event.step) for key, value in values.items()]
        with self._skipping_refused(what):
            self._runs.client.log_batch(run_id, points, _params(params), _tags(tags))
        self._set_trial_status(number, events, is_new)

    def _set_trial_status(self, number: str, events: Sequence[TrialEvent], is_new: bool) -> None:
        """Set the newest status, and the outcome in the run's name."""
        newest = next((event for event in reversed(events) if not isinstance(event, Reported)), None)
        run_id, what = self.acknowledged.trials[number], f"trial {number}"
        if isinstance(newest, TrialEnded):
            name = run_page.run_name(newest.trial, newest.outcome)
            self._set_status(run_id, what, newest.outcome.mlflow_status, newest.time_ms, name)
        elif newest is not None and not is_new:
            self._set_status(run_id, what, "RUNNING", None, run_page.run_name(newest.trial))

    def _set_status(
        self, run_id: str, what: str, status: str, time_ms: int | None, name: str | None = None
    ) -> None:
        with self._skipping_refused(what):
            if status in ("RUNNING", "SCHEDULED"):
                self._runs.client.update_run(run_id, status, name)
                return
            self._runs.client.set_terminated(run_id, status, time_ms)
            if name is not None:
                self._runs.client.update_run(run_id, name=name)

    @contextmanager
    def _skipping_refused(self, what: str) -> Iterator[None]:
        """Skip a call that MLflow refuses permanently, and set the notice. All other errors are raised."""
        try:
            yield
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            self._runs.experiment(check=True)  # raises if MLflow refuses the whole experiment
            self._notice = f"MLflow refused a value of {what}, which is skipped: {one_line(error)}"

    def _ship_study(self, events: list[Event], points: list[Metric], counters: Counters) -> None:
        run_id = self.acknowledged.parent_run
        if run_id is None:
            return
        what = "the study's parent run"
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        for event in events:
            if isinstance(event, StudyStarted):
                params = params or run_page.study_params(event.spec)
                self._log_study(run_id, event)
                self._write_views()
        is_confirmed = any(isinstance(event, Confirmed) for event in events)
        ends = [event for event in events if isinstance(event, StudyEnded)]
        is_changed = any(isinstance(event, StudyStarted | StudyEnded | Paused | Resumed) for event in events)
        status = StudyStatus(self.acknowledged.study["status"])
        if is_changed or is_confirmed or time.monotonic() - self._note_time > NOTE_SECONDS:
            self._note_time = time.monotonic()
            note = run_page.study_note(self.acknowledged.study, counters, status, self._links())
            because = {"ended because": self.acknowledged.study.get("ended_because", "")}
            tags = {"mlflow.note.content": note, "state": status} | because | run_page.winner_tags(counters)
        with self._skipping_refused(what):
            self._runs.client.log_batch(run_id, points, _params(params), _tags(tags))
        if ends or is_confirmed:
            with self._skipping_refused(what):
                self._log_event_log(run_id)
                self._log_report(run_id)
        if is_changed:
            self._set_status(run_id, what, status.mlflow_status, ends[-1].time_ms if ends else None)

    def _log_study(self, run_id: str, event: StudyStarted) -> None:
        with self._skipping_refused("the study's parent run"):
            self._runs.client.log_dict(run_id, event.spec, "spec.json")
            self._runs.client.log_dict(run_id, event.facts, "facts.json")
            if dataset := dataset_input(self.acknowledged.study):
                self._runs.client.log_inputs(run_id, [dataset])

    def _links(self) -> str:
        """Markdown links to the study's views."""
        state = self.acknowledged
        if not state.has_views or state.experiment_id is None:
            return ""
        paths = {
            title: view_path(state.experiment_id, state.study["id"], view) for view, title in TITLES.items()
        }
        return (
            "Views: "
            + ", ".join(f"[{title}]({path.removeprefix('/')})" for title, path in paths.items())
            + "."
        )

    def _write_views(self) -> None:
        """Write the study's saved views if the destination's MLflow version supports them."""
        state = self.acknowledged
        table = study_table(state)
        if table is None or state.experiment_id is None:
            return
        state.has_views = reads_views(_server_version(state.uri))
        if state.has_views:
            with self._skipping_refused("the study's views"):
                for key, value in view_tags(table, state.study["start_ms"]).items():
                    self._runs.client.set_experiment_tag(state.experiment_id, key, value)

    def _log_event_log(self, run_id: str) -> None:
        """Upload the journal without its reports as readable text."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "events.log")
            with path.open("w") as log:
                for portion in read_all(self._folder):
                    log.writelines(f"{line}\n" for line in map(run_page.event_line, portion.events) if line)
            self._runs.client.log_artifact(run_id, str(path))

    def _log_report(self, run_id: str) -> None:
        from proxytune.tuning.report.page import write_report  # imported late: it loads Optuna's plots

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "report.html")
            try:
                write_report(self._folder, path)
            except Exception as error:  # a plot that fails must not block the events
                self._notice = f"the report could not be written: {one_line(error)}"
                return
            self._runs.client.log_artifact(run_id, str(path))


def dataset_input(study: Mapping[str, Any]) -> DatasetInput | None:
    """The study's data as an MLflow dataset; None if no fingerprint is known."""
    facts, task = study.get("facts", {}), study.get("spec", {}).get("task", {})
    fingerprint = facts.get("data_fingerprint")
    if not fingerprint:
        return None
    places = [task["root"]] if task.get("root") else list((task.get("files") or {}).values())
    source = (
        {"uri": ", ".join(map(str, places))}
        if places
        else {"generator": f"proxytune.datasets.{task.get('name')}"}
    )
    dataset = Dataset(
        name=str(task.get("name")),
        digest=str(fingerprint)[:36],  # MLflow's limit
        source_type="local" if places else "code",
        source=json.dumps(source),
        profile=json.dumps(
            {"task": task, "conventions": facts.get("conventions", {}), "fingerprint": fingerprint}
        ),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _server_version(uri: str) -> str:
    """Version of the MLflow UI of the store; empty if its server does not report it."""
    if not uri.startswith("http"):
        return str(mlflow.__version__)  # `proxytune ui` serves it
    answer = requests.get(f"{uri.rstrip('/')}/version", timeout=10)
    return answer.text.strip() if answer.ok else ""


def _params(params: Mapping[str, str]) -> list[Param]:
    return [Param(key, value) for key, value in params.items()]


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, str(value)) for key, value in tags.items()]
