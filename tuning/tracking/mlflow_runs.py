"""The MLflow experiment and runs of a study: found by their tags, or created.

MLflow does not enforce unique runs. An intent is therefore saved in the acknowledgement before a run is created, and the
run is searched by its tags before it is created again. The process may be killed at any point.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run, ViewType

from proxytune.tuning.journal.events import TrialEvent, TrialStarted
from proxytune.tuning.spec.locations import artifact_root
from proxytune.tuning.tracking import optuna_tags, run_page
from proxytune.tuning.tracking.acknowledgement import Acknowledgement

DOUBT_SECONDS = 60


class Blocked(Exception):
    """Shipping needs an action by the user; the message says which."""


class MlflowRuns:
    """Run ids of one study in one experiment, kept in the acknowledgement."""

    def __init__(self, folder: Path, acknowledged: Acknowledgement) -> None:
        self.notice: str | None = None  # a warning for the user that does not stop the shipping
        self._folder = folder
        self._acknowledged = acknowledged
        self._experiment_id: str | None = None

    @cached_property
    def client(self) -> MlflowClient:
        """Created on first use: the constructor already connects to the store, which may be unavailable."""
        return MlflowClient(tracking_uri=self._acknowledged.uri)

    def ensure(self, trials: Mapping[str, Sequence[TrialEvent]], dataset: DatasetInput | None) -> None:
        """Find or create the study's run and the runs of these trials, with the study's data set as input."""
        state = self._acknowledged
        if state.creating:  # the result of that creation is unknown
            state.doubt_ms = time.time_ns() // 1_000_000
        if state.creating or state.parent_run is None:
            self._find()
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
                state.trials[number] = self._create_child(int(number), trials[number], dataset)

    def _find(self) -> None:
        """Adopt the runs of this journal that already exist in MLflow."""
        state = self._acknowledged
        lost_all = state.parent_run is None  # nothing is acknowledged, so any trial may already have a run
        for number, runs in self._by_trial().items():
            if number == "":
                state.parent_run = runs[0].info.run_id
            elif lost_all or number in state.creating:
                state.trials.setdefault(number, runs[0].info.run_id)
        if state.parent_run is None and "name" in state.study:
            namesakes = self._search(f"tags.study_key = '{state.study['name']}'")
            if next(iter(namesakes), None) is not None:
                self.notice = (
                    f"experiment {state.experiment} contains another study named {state.study['name']}; the runs of "
                    f"this one have the tag study_id={state.study['id']}, or give it another name or experiment"
                )

    def remove_twins(self) -> None:
        """Delete empty duplicate runs, since MLflow may create a run long after the client's timeout.

        Repeated until DOUBT_SECONDS after the lost answer. By then a server has dropped pending requests.
        """
        state, now_ms = self._acknowledged, time.time_ns() // 1_000_000
        if state.doubt_ms is None:
            return
        ours = {state.parent_run, *state.trials.values()}
        for runs in self._by_trial().values():
            runs.sort(key=lambda run: (run.info.run_id in ours, len(run.data.metrics), len(run.data.params)))
            for twin in runs[:-1]:
                self.client.delete_run(twin.info.run_id)
        if now_ms - state.doubt_ms > DOUBT_SECONDS * 1000:
            state.doubt_ms = None
        state.save(self._folder)

    def _by_trial(self) -> dict[str, list[Run]]:
        """MLflow's runs of this journal by trial number, the parent run under the empty string."""
        runs: dict[str, list[Run]] = {}
        for run in self._search(f"tags.study_id = '{self._acknowledged.study['id']}'"):
            number = run.data.tags.get("trial_key", "").rpartition("/")[2]
            runs.setdefault(number, []).append(run)
        return runs

    def _search(self, query: str) -> Iterable[Run]:
        """All matching active runs of the experiment, oldest first."""
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment()], query, ViewType.ACTIVE_ONLY, 1000, ["attributes.start_time ASC"], token
            )
            yield from page
            token = page.token
            if not token:
                return

    def experiment(self, *, check: bool = False) -> str:
        """The experiment's id; the experiment is created if it does not exist. check: verify again that it is active.

        Raises:
            Blocked: the experiment was deleted.
        """
        if self._experiment_id is None or check:
            self._experiment_id = self._acknowledged.experiment_id = self._find_experiment()
        return self._experiment_id

    def _find_experiment(self) -> str:
        name, uri = self._acknowledged.experiment, self._acknowledged.uri
        found = self.client.get_experiment_by_name(name)
        if found is None:
            root = artifact_root(uri, self._folder.parents[1])
            # With this tag MLflow shows its pages for model training, not those for language model applications.
            kind: dict[str, Any] = {"mlflow.experimentKind": "custom_model_development"}
            return str(self.client.create_experiment(name, root, kind))
        if found.lifecycle_stage != "active":
            raise Blocked(
                f"experiment {name} was deleted in MLflow; restore it with `mlflow experiments restore "
                f"--experiment-id {found.experiment_id}`, or set another tracking.experiment"
            )
        return str(found.experiment_id)

    def _create_parent(self) -> str:
        study = self._acknowledged.study
        tags = {**run_page.source_tags(), "study_key": study["name"], "study_id": study["id"]}
        tags |= optuna_tags.study_tags(study["spec"].get("search", {}).get("objectives") or {})
        run = self.client.create_run(self.experiment(), study["start_ms"], tags, study["name"])
        return str(run.info.run_id)

    def _create_child(self, number: int, events: Sequence[TrialEvent], dataset: DatasetInput | None) -> str:
        start = next((event for event in events if isinstance(event, TrialStarted)), None)
        study = self._acknowledged.study
        name = study.get("name", "")
        tags = {**run_page.source_tags(), "trial_key": f"{name}/{number}", "study_id": study["id"]}
        if self._acknowledged.parent_run is not None:
            tags["mlflow.parentRunId"] = self._acknowledged.parent_run
        if start is not None:
            space = study.get("spec", {}).get("search", {}).get("space", {})
            tags |= run_page.start_tags(start) | optuna_tags.trial_tags(number, start.params, space)
            tags["mlflow.note.content"] = run_page.trial_note(name, start)
        run = self.client.create_run(
            self.experiment(), events[0].time_ms, tags=tags, run_name=run_page.run_name(number)
        )
        if dataset is not None:
            self.client.log_inputs(run.info.run_id, [dataset])
        return str(run.info.run_id)
