"""MLflow sync: a study's journal as runs in MLflow.

Everything here may be done twice: runs are found or made by `mlflow_runs`; metrics carry the step and time of their event,
and MLflow keeps one of identical points; tags, statuses and artifacts are set. So it can be killed anywhere, and MLflow can
be away.
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

BATCH_BYTES = 1 << 20  # of the journal at a time: bounds memory, and what a kill makes us ship again
NOTE_SECONDS = 10  # how often the parent's description is written anew
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE"}
"""Error codes by which MLflow refuses one call for good, however often it is repeated."""


class MlflowSync:
    """One journal's image in one MLflow experiment: a parent run for the study, a child run for each trial."""

    def __init__(self, folder: Path, uri: str, experiment: str) -> None:
        self.acknowledged = Acknowledgement.load(folder, uri, experiment)
        self.unacknowledged = False  # whether MLflow has more than the acknowledgement says
        self._folder = folder
        self._runs = MlflowRuns(folder, self.acknowledged)
        self._notice: str | None = None
        self._note_time = 0.0

    @property
    def notice(self) -> str | None:
        """What a reader should know although the shipping goes on."""
        return self._notice or self._runs.notice

    def ship(self) -> bool:
        """Write the next portion of the journal to MLflow; False where none waits.

        The disk has the portion before MLflow gets it: after a power cut MLflow has nothing that the journal lacks.

        Raises:
            Exception: whatever MLflow, the network or the disk throw; calling again repeats the portion.
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
        """Note for good that everything so far is in MLflow."""
        self.acknowledged.error = self.notice
        self.acknowledged.save(self._folder)
        self.unacknowledged = False

    def note_trouble(self, text: str) -> None:
        """Leave beside the outbox, for `proxytune show`, what stands in the way."""
        if self.acknowledged.error != text:
            self.acknowledged.error = text
            self.acknowledged.save(self._folder)

    def remove_twins(self) -> None:
        """Delete empty second runs (`MlflowRuns.remove_twins`)."""
        self._runs.remove_twins()

    def _ship(self, events: list[Event]) -> None:
        self._learn_study(events)
        trials: dict[str, list[TrialEvent]] = {}
        for event in events:
            if isinstance(event, TrialStarted | Reported | TrialEnded):
                trials.setdefault(str(event.trial), []).append(event)
        self._runs.have(trials, dataset_input(self.acknowledged.study))
        counters = Counters(
            **copy.deepcopy(self.acknowledged.counters)
        )  # the old one stays for another attempt
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

    def _learn_study(self, events: Iterable[Event]) -> None:
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

    # What the runs show

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
                    with self._passing_over(what):
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
        with self._passing_over(what):
            self._runs.client.log_batch(run_id, points, _params(params), _tags(tags))
        self._set_trial_status(number, events, is_new)

    def _set_trial_status(self, number: str, events: Sequence[TrialEvent], is_new: bool) -> None:
        """The newest status, and the outcome in the run's name."""
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
        with self._passing_over(what):
            if status in ("RUNNING", "SCHEDULED"):
                self._runs.client.update_run(run_id, status, name)
                return
            self._runs.client.set_terminated(run_id, status, time_ms)
            if name is not None:
                self._runs.client.update_run(run_id, name=name)

    @contextmanager
    def _passing_over(self, what: str) -> Iterator[None]:
        """Leave out what MLflow refuses for good; let every other trouble through."""
        try:
            yield
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            self._runs.experiment(check=True)  # raises where the whole experiment is what MLflow refuses
            self._notice = f"MLflow refuses something of {what}, which is left out: {one_line(error)}"

    def _ship_study(self, events: list[Event], points: list[Metric], counters: Counters) -> None:
        run_id = self.acknowledged.parent_run
        if run_id is None:
            return
        what = "the study's own run"
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
        with self._passing_over(what):
            self._runs.client.log_batch(run_id, points, _params(params), _tags(tags))
        if ends or is_confirmed:
            with self._passing_over(what):
                self._log_event_log(run_id)
                self._log_report(run_id)
        if is_changed:
            self._set_status(run_id, what, status.mlflow_status, ends[-1].time_ms if ends else None)

    def _log_study(self, run_id: str, event: StudyStarted) -> None:
        with self._passing_over("the study's own run"):
            self._runs.client.log_dict(run_id, event.spec, "spec.json")
            self._runs.client.log_dict(run_id, event.facts, "facts.json")
            if dataset := dataset_input(self.acknowledged.study):
                self._runs.client.log_inputs(run_id, [dataset])

    def _links(self) -> str:
        """Links to the study's views, in Markdown."""
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
        """Keep the study's views where the destination's pages read them."""
        state = self.acknowledged
        table = study_table(state)
        if table is None or state.experiment_id is None:
            return
        state.has_views = reads_views(_server_version(state.uri))
        if state.has_views:
            with self._passing_over("the study's views"):
                for key, value in view_tags(table, state.study["start_ms"]).items():
                    self._runs.client.set_experiment_tag(state.experiment_id, key, value)

    def _log_event_log(self, run_id: str) -> None:
        """The journal without its reports, as text for people."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "events.log")
            with path.open("w") as log:
                for portion in read_all(self._folder):
                    log.writelines(f"{line}\n" for line in map(run_page.event_line, portion.events) if line)
            self._runs.client.log_artifact(run_id, str(path))

    def _log_report(self, run_id: str) -> None:
        from proxytune.tuning.report.page import write_report  # Optuna's pictures: needed once, at the end

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "report.html")
            try:
                write_report(self._folder, path)
            except Exception as error:  # a picture that cannot be drawn must not keep the events back
                self._notice = f"no report could be drawn: {one_line(error)}"
                return
            self._runs.client.log_artifact(run_id, str(path))


def dataset_input(study: Mapping[str, Any]) -> DatasetInput | None:
    """The study's data as an MLflow dataset; None where no fingerprint is known."""
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
    """Version of the MLflow whose pages show the store; empty if its server does not tell."""
    if not uri.startswith("http"):
        return str(mlflow.__version__)  # `proxytune ui` serves it
    answer = requests.get(f"{uri.rstrip('/')}/version", timeout=10)
    return answer.text.strip() if answer.ok else ""


def _params(params: Mapping[str, str]) -> list[Param]:
    return [Param(key, value) for key, value in params.items()]


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, str(value)) for key, value in tags.items()]


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
