"""An empty MLflow store to copy, and the comparison of a store with a study's journal."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from proxytune.tuning.journal.events import Reported, TrialEnded, TrialStarted
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.spec.locations import default_uri
from proxytune.tuning.tracking.shipper import CHILD_ENVIRONMENT

EXPERIMENT = "proxytune"


@pytest.fixture(scope="module", autouse=True)
def _shipper_environment() -> Iterator[None]:
    """The environment of the shipper's process, for the tests of this folder only."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in CHILD_ENVIRONMENT.items():
            patch.setenv(key, value)
        yield


@pytest.fixture(scope="session")
def empty_mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to create its tables, so that this is done once per session."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def storage(tmp_path: Path, empty_mlflow_database: Path) -> Path:
    """A folder of studies with an empty MLflow store."""
    folder = tmp_path / "studies"
    folder.mkdir()
    shutil.copy(empty_mlflow_database, folder / "mlflow.db")
    return folder


@pytest.fixture
def uri(storage: Path) -> str:
    return default_uri(storage)


class Store:
    """The runs of one experiment in an MLflow store, and their differences from a study's journal."""

    def __init__(self, uri: str, experiment: str = EXPERIMENT) -> None:
        self.client = MlflowClient(tracking_uri=uri)
        self.experiment = experiment

    def runs(self) -> list[Run]:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            return []
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs([found.experiment_id], max_results=1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs

    def parent(self) -> Run:
        (parent,) = [run for run in self.runs() if MLFLOW_PARENT_RUN_ID not in run.data.tags]
        return parent

    def trials(self) -> dict[int, Run]:
        """Child runs by trial number. Fails if a trial has two runs."""
        children = [run for run in self.runs() if MLFLOW_PARENT_RUN_ID in run.data.tags]
        numbers = Counter(run.data.tags["trial_key"] for run in children)
        assert not [key for key, count in numbers.items() if count > 1], "duplicate runs"
        return {int(run.data.tags["trial_key"].rpartition("/")[2]): run for run in children}

    def points(self, run: Run) -> Counter[tuple[str, int, float, int]]:
        """(metric, step, value, time) of every point of a run, with multiplicity."""
        return Counter(
            (key, point.step, point.value, point.timestamp)
            for key in run.data.metrics
            for point in self.client.get_metric_history(run.info.run_id, key)
        )

    def differences(self, outbox_folder: Path) -> dict[str, int]:
        """The number of runs that are missing, duplicated or RUNNING, and of points missing, duplicated or unknown.

        Kinds with the count 0 are left out.
        """
        journal = read_events(outbox_folder).events
        count: Counter[str] = Counter()
        children = [run for run in self.runs() if MLFLOW_PARENT_RUN_ID in run.data.tags]
        numbers = Counter(int(run.data.tags["trial_key"].rpartition("/")[2]) for run in children)
        expected = {event.trial for event in journal if isinstance(event, TrialStarted)}
        count["missing runs"] = len(expected - numbers.keys())
        count["duplicate runs"] = sum(numbers.values()) - len(numbers)
        parents = len(self.runs()) - len(children)
        count["duplicate parents"] = max(0, parents - 1)
        count["runs RUNNING"] = sum(run.info.status == "RUNNING" for run in self.runs())
        reported: dict[int, set[tuple[str, int, float, int]]] = {number: set() for number in expected}
        for event in journal:
            if isinstance(event, Reported | TrialEnded):
                reported[event.trial] |= {
                    (key, event.step, value, event.time_ms) for key, value in event.metrics.items()
                }
        for run in children:
            points = Counter({point: n for point, n in self.points(run).items() if point[0] != "value"})
            number = int(run.data.tags["trial_key"].rpartition("/")[2])
            steps = Counter((key, step) for key, step, _, _ in points.elements())
            count["duplicate points"] += sum(steps.values()) - len(steps)
            count["missing points"] += len(reported[number] - points.keys())
            count["unknown points"] += len(points.keys() - reported[number])
        parent_steps = Counter((key, step) for key, step, _, _ in self.points(self.parent()).elements())
        count["duplicate points"] += sum(parent_steps.values()) - len(parent_steps)
        return {kind: number for kind, number in count.items() if number}

    def artifact(self, run: Run, name: str, folder: Path) -> Any:
        """The content of an artifact: parsed JSON, or text."""
        folder.mkdir(exist_ok=True)
        path = Path(self.client.download_artifacts(run.info.run_id, name, str(folder)))
        return json.loads(path.read_text()) if name.endswith(".json") else path.read_text()


@pytest.fixture
def store(uri: str) -> Store:
    return Store(uri)


@pytest.fixture
def make_store() -> type[Store]:
    return Store
