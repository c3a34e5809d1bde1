"""MLflow sync: a study's journal as runs in MLflow.

Everything here may be done twice: a run is created under an intent in the acknowledgement and looked for
by its tags before it is created again; metrics carry the step and time of their event, and MLflow keeps one of
identical points; tags, statuses and artifacts are set. So it can be killed anywhere, and MLflow can be away.
"""

import copy
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from proxytune.tuning.journal.counters import Counters
from proxytune.tuning.journal.outbox import Event, read_events
from proxytune.tuning.spec.locations import artifact_root
from proxytune.tuning.tracking import run_page
from proxytune.tuning.tracking.acknowledgement import Acknowledgement

BATCH_BYTES = 1 << 20  # of the journal at a time: bounds memory, and what a kill makes us ship again
DOUBT_SECONDS = 60
NOTE_SECONDS = 10  # how often the parent's description is written anew
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE"}
"""Error codes by which MLflow refuses one call for good, however often it is repeated."""


class Blocked(Exception):
    """Nothing can be shipped until somebody acts; the message says what to do."""


class MlflowSync:
    """One journal's image in one MLflow experiment: a parent run for the study, a child run for each trial."""

    def __init__(self, folder: Path, uri: str, experiment: str) -> None:
        self.acknowledged = Acknowledgement.load(folder, uri, experiment)
        self.unacknowledged = False  # whether MLflow has more than the acknowledgement says
        self.notice: str | None = None  # what a reader should know although the shipping goes on
        self._folder = folder
        self._experiment_id: str | None = None
        self._note_time = 0.0

    @cached_property
    def _client(self) -> MlflowClient:
        """Opening it already asks the store, which may be away."""
        return MlflowClient(tracking_uri=self.acknowledged.uri)

    def ship(self) -> bool:
        """Write the next portion of the journal to MLflow; False where none waits.

        Raises:
            Exception: whatever MLflow, the network or the disk throw; calling again repeats the portion.
        """
        events, behind = read_events(self._folder, self.acknowledged.offset, BATCH_BYTES)
        if behind == self.acknowledged.offset:
            return False
        self._ship(events)
        self.acknowledged.offset = behind
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

    def _ship(self, events: list[Event]) -> None:
        self._know_the_study(events)
        trials: dict[str, list[Event]] = {}
        for event in events:
            if event["kind"] in ("trial", "report", "end"):
                trials.setdefault(str(event["trial"]), []).append(event)
        self._have_runs(trials)
        counters = Counters(
            **copy.deepcopy(self.acknowledged.counters)
        )  # the old one stays for another attempt
        known = set(counters.running)
        points: list[Metric] = []
        for event in events:
            values = counters.fold(event)
            points += [
                Metric(key, value, event["time_ms"], counters.num_ended) for key, value in values.items()
            ]
        for number, its_events in trials.items():
            self._ship_trial(number, its_events, counters, is_new=number not in known)
        self._ship_study(events, points, counters)
        for number in trials.keys() - counters.running.keys():
            del self.acknowledged.trials[number]
        self.acknowledged.creating = []
        self.acknowledged.counters = asdict(counters)

    # Runs: found or made

    def _know_the_study(self, events: Iterable[Event]) -> None:
        study = self.acknowledged.study
        for event in events:
            if event["kind"] == "journal":
                study["id"] = event["id"]
            elif event["kind"] == "study":
                study |= {"name": event["study"], "spec": event["spec"], "facts": event.get("facts", {})}
                study.setdefault("start_ms", event["time_ms"])

    def _have_runs(self, trials: Mapping[str, list[Event]]) -> None:
        """Find or make the parent run and the runs of these trials."""
        state = self.acknowledged
        if state.creating:  # we, or an earlier process, never heard how that went
            state.doubt_ms = time.time_ns() // 1_000_000
        if state.creating or state.parent_run is None:
            self._find_runs()
        missing = [number for number in trials if number not in state.trials]
        if state.parent_run is None and "name" in state.study:
            missing.insert(0, "")
        if not missing:
            return
        state.creating = missing
        state.save(self._folder)
        for number in missing:
            if number == "":
                state.parent_run = self._create_parent()
            else:
                state.trials[number] = self._create_child(number, trials[number])

    def _find_runs(self) -> None:
        """Take over the runs of this journal that MLflow already has."""
        state = self.acknowledged
        lost_all = state.parent_run is None  # nothing is acknowledged here, so any trial may have a run there
        for number, runs in self._runs_by_trial().items():
            if number == "":
                state.parent_run = runs[0].info.run_id
            elif lost_all or number in state.creating:
                state.trials.setdefault(number, runs[0].info.run_id)
        if state.parent_run is None and "name" in state.study:
            namesakes = self._search(f"tags.study_key = '{state.study['name']}'")
            if next(iter(namesakes), None) is not None:
                self.notice = (
                    f"experiment {state.experiment} holds another study named {state.study['name']}; the runs of "
                    f"this one have the tag study_id={state.study['id']}, or give it another name or experiment"
                )

    def remove_twins(self) -> None:
        """Delete empty second runs: MLflow may carry out a creation long after the client gave up on it.

        Repeated until a minute after the doubt, when a server has dropped what it could not do.
        """
        state, now_ms = self.acknowledged, time.time_ns() // 1_000_000
        if state.doubt_ms is None:
            return
        ours = {state.parent_run, *state.trials.values()}
        for runs in self._runs_by_trial().values():
            runs.sort(key=lambda run: (run.info.run_id in ours, len(run.data.metrics), len(run.data.params)))
            for twin in runs[:-1]:
                self._client.delete_run(twin.info.run_id)
        if now_ms - state.doubt_ms > DOUBT_SECONDS * 1000:
            state.doubt_ms = None
        state.save(self._folder)

    def _runs_by_trial(self) -> dict[str, list[Run]]:
        """MLflow's runs of this journal by trial number, the study's own under the empty name."""
        runs: dict[str, list[Run]] = {}
        for run in self._search(f"tags.study_id = '{self.acknowledged.study['id']}'"):
            number = run.data.tags.get("trial_key", "").rpartition("/")[2]
            runs.setdefault(number, []).append(run)
        return runs

    def _search(self, query: str) -> Iterable[Run]:
        """All active runs of the experiment that match, oldest first."""
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment()], query, ViewType.ACTIVE_ONLY, 1000, ["attributes.start_time ASC"], token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _experiment(self) -> str:
        """The experiment's id; made where it does not exist yet."""
        if self._experiment_id is None:
            name, uri = self.acknowledged.experiment, self.acknowledged.uri
            found = self._client.get_experiment_by_name(name)
            if found is None:
                root = artifact_root(uri, self._folder.parents[1])
                # The tag opens it in the pages for training, not in those for language model applications.
                kind = {"mlflow.experimentKind": "custom_model_development"}
                self._experiment_id = self._client.create_experiment(name, root, kind)
            elif found.lifecycle_stage != "active":
                raise Blocked(
                    f"experiment {name} was deleted in MLflow; restore it with `mlflow experiments restore "
                    f"--experiment-id {found.experiment_id}`, or name another in tracking.experiment"
                )
            else:
                self._experiment_id = found.experiment_id
        return str(self._experiment_id)

    def _create_parent(self) -> str:
        study = self.acknowledged.study
        tags = {**run_page.source_tags(), "study_key": study["name"], "study_id": study["id"]}
        run = self._client.create_run(self._experiment(), study["start_ms"], tags, study["name"])
        return str(run.info.run_id)

    def _create_child(self, number: str, events: list[Event]) -> str:
        start = next((event for event in events if event["kind"] == "trial"), None)
        study = self.acknowledged.study
        name = study.get("name", "")
        tags = {**run_page.source_tags(), "trial_key": f"{name}/{number}", "study_id": study["id"]}
        if self.acknowledged.parent_run is not None:
            tags["mlflow.parentRunId"] = self.acknowledged.parent_run
        if start is not None:
            tags |= run_page.start_tags(start) | {"mlflow.note.content": run_page.trial_note(name, start)}
        run = self._client.create_run(
            self._experiment(),
            start_time=events[0]["time_ms"],
            tags=tags,
            run_name=run_page.run_name(int(number), start["params"] if start else {}),
        )
        return str(run.info.run_id)

    # What the runs show

    def _ship_trial(self, number: str, events: list[Event], counters: Counters, is_new: bool) -> None:
        run_id, what = self.acknowledged.trials[number], f"trial {number}"
        points: list[Metric] = []
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        status, time_ms = None, None
        for event in events:
            if event["kind"] == "trial":
                if is_new and not params:
                    params = run_page.trial_params(event)
                    with self._passing_over(what):
                        self._client.log_dict(run_id, event.get("config", {}), "config.json")
                tags |= run_page.start_tags(event)
                status, time_ms = "RUNNING", None
            else:
                metrics, texts = _numbers_and_texts(event["metrics"])
                points += [
                    Metric(key, value, event["time_ms"], event["step"]) for key, value in metrics.items()
                ]
                tags |= texts | run_page.worker_tags(event)
            if event["kind"] == "end":
                tags |= run_page.end_tags(event, counters)
                status, time_ms = run_page.STATUS.get(event["outcome"], "FAILED"), event["time_ms"]
        with self._passing_over(what):
            self._client.log_batch(run_id, points, _params(params), _tags(tags))
        if status is not None and not (is_new and status == "RUNNING"):
            self._set_status(run_id, what, status, time_ms)

    def _set_status(self, run_id: str, what: str, status: str, time_ms: int | None) -> None:
        with self._passing_over(what):
            if status == "RUNNING":
                self._client.update_run(run_id, status)
            else:
                self._client.set_terminated(run_id, status, time_ms)

    @contextmanager
    def _passing_over(self, what: str) -> Iterator[None]:
        """Leave out what MLflow refuses for good; let every other trouble through."""
        try:
            yield
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            self._experiment_id = None
            self._experiment()  # raises where the whole experiment is what MLflow refuses
            self.notice = f"MLflow refuses something of {what}, which is left out: {one_line(error)}"

    def _ship_study(self, events: list[Event], points: list[Metric], counters: Counters) -> None:
        run_id, study = self.acknowledged.parent_run, self.acknowledged.study
        if run_id is None:
            return
        what = "the study's own run"
        params: dict[str, str] = {}
        status, time_ms = None, None
        for event in events:
            if event["kind"] == "study":
                params = params or run_page.study_params(event["spec"])
                status = "RUNNING"
                with self._passing_over(what):
                    self._client.log_dict(run_id, event["spec"], "spec.json")
                    self._client.log_dict(run_id, event.get("facts", {}), "facts.json")
                    if dataset := dataset_input(event):
                        self._client.log_inputs(run_id, [dataset])
            elif event["kind"] == "study_end":
                status = run_page.STUDY_STATUS.get(event["status"], "FAILED")
                time_ms = event["time_ms"]
        tags = {}
        if status is not None or time.monotonic() - self._note_time > NOTE_SECONDS:
            self._note_time = time.monotonic()
            note = run_page.study_note(
                study["name"], study["spec"], study["facts"], counters, status or "RUNNING"
            )
            tags = {"mlflow.note.content": note}
        with self._passing_over(what):
            self._client.log_batch(run_id, points, _params(params), _tags(tags))
        if status is not None and status != "RUNNING":
            with self._passing_over(what):
                self._log_event_log(run_id)
                self._log_report(run_id)
        if status is not None:
            self._set_status(run_id, what, status, time_ms)

    def _log_event_log(self, run_id: str) -> None:
        """The journal without its reports, as text for people."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "events.log")
            with path.open("w") as log:
                offset, behind = -1, 0
                while behind != offset:
                    offset = behind
                    events, behind = read_events(self._folder, offset, BATCH_BYTES)
                    for event in events:
                        if event["kind"] not in ("journal", "report"):
                            moment = datetime.fromtimestamp(event["time_ms"] / 1000, UTC)
                            log.write(run_page.event_line(event, f"{moment:%Y-%m-%d %H:%M:%S}Z") + "\n")
            self._client.log_artifact(run_id, str(path))

    def _log_report(self, run_id: str) -> None:
        from proxytune.tuning.report.page import write_report  # Optuna's pictures: needed once, at the end

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "report.html")
            try:
                write_report(self._folder, path)
            except Exception as error:  # a picture that cannot be drawn must not keep the events back
                self.notice = f"no report could be drawn: {one_line(error)}"
                return
            self._client.log_artifact(run_id, str(path))


def dataset_input(event: Event) -> DatasetInput | None:
    """The study's data as an MLflow dataset; None where no fingerprint is known."""
    facts, task = event.get("facts", {}), event["spec"].get("task", {})
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


def _numbers_and_texts(metrics: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """A report's numbers, and what else it says (`memory_source`), which MLflow keeps as tags."""
    numbers = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
    texts = {key: value for key, value in metrics.items() if isinstance(value, str)}
    return numbers, texts


def _params(params: Mapping[str, str]) -> list[Param]:
    return [Param(key, value) for key, value in params.items()]


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, value) for key, value in tags.items()]


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
