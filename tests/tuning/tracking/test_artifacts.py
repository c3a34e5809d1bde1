"""The artifact locations of an MLflow store follow its folder when it is copied or moved."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from proxytune.tuning.journal.events import StudyEnded, TrialEnded, TrialStarted
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.spec.locations import artifact_root, default_uri
from proxytune.tuning.spec.outcome import Outcome, StudyStatus
from proxytune.tuning.tracking.artifacts import follow_move
from proxytune.tuning.tracking.links import leaderboards
from proxytune.tuning.tracking.shipper import Shipper
from tests.benchmarks.synthetic import synthetic_events
from tests.tuning.tracking.syncing import synced


@pytest.fixture
def original(storage: Path) -> Path:
    """A store with an artifact of a run and a registered model, as after a study."""
    uri = default_uri(storage)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("proxytune", artifact_root(uri, storage))
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "kept", "note.txt")
    client.create_registered_model("study")
    client.create_model_version("study", f"{run.info.artifact_uri}/model", run.info.run_id)
    return storage


READ_AND_WRITE = """
import os, sys
from pathlib import Path
from mlflow import MlflowClient
for uri in sys.argv[1:]:
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        continue
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("proxytune").experiment_id
    (run,) = client.search_runs([experiment])
    client.log_text(run.info.run_id, "new", "new.txt")
    client.log_text(client.create_run(experiment).info.run_id, "new", "new.txt")
    print(Path(client.download_artifacts(run.info.run_id, "note.txt")).read_text())
    break
"""


def read_and_write(*uris: str) -> list[str]:
    """The texts of the existing artifact of each store; writes two new ones to each.

    A process per store, forked after the import, since MLflow caches the artifact locations of runs.
    """
    command = [sys.executable, "-c", READ_AND_WRITE, *uris]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def all_text(storage: Path) -> str:
    """All values of all tables."""
    with closing(sqlite3.connect(storage / "mlflow.db")) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return "\n".join(str(row) for table in tables for row in database.execute(f'SELECT * FROM "{table}"'))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.e2e
def test_copied_and_moved_folders_have_their_own_artifacts(original: Path, tmp_path: Path) -> None:
    copied, moved = tmp_path / "copied" / "studies", tmp_path / "moved" / "studies"
    for folder, carry in ((copied, shutil.copytree), (moved, shutil.move)):
        folder.parent.mkdir()
        carry(original, folder)
        assert follow_move(default_uri(folder)) == [str(original / "mlartifacts")]

    assert read_and_write(default_uri(copied), default_uri(moved)) == ["kept", "kept"]
    for folder in (copied, moved):
        assert str(original) not in all_text(folder)
        assert len(files(folder / "mlartifacts")) == 3
    assert not original.exists(), "an artifact was written to the original folder"


def test_unmoved_folder_is_unchanged(original: Path) -> None:
    before = all_text(original)
    assert follow_move(default_uri(original)) == []
    assert all_text(original) == before


def test_artifact_location_chosen_by_the_user_is_unchanged(storage: Path, tmp_path: Path) -> None:
    uri = default_uri(storage)
    MlflowClient(tracking_uri=uri).create_experiment("other", str(tmp_path / "bucket"))
    assert follow_move(uri) == []
    assert str(tmp_path / "bucket") in all_text(storage)


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "postgresql+psycopg://u@127.0.0.1/db", "sqlite:////missing/mlflow.db"]
)
def test_other_kinds_of_stores_are_unchanged(uri: str) -> None:
    assert follow_move(uri) == []


def test_empty_database_file_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    assert follow_move(default_uri(tmp_path)) == []


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_shipper_of_a_copied_study_changes_only_the_copy(storage: Path, tmp_path: Path) -> None:
    """It also continues the copied runs."""
    outbox = Outbox(storage / "study" / "outbox")
    for event in synthetic_events(2, steps=100, name="study"):
        outbox.append(event)
    outbox.close()
    synced(storage / "study" / "outbox", default_uri(storage))
    before = files(storage)
    other = tmp_path / "other" / "studies"
    shutil.copytree(storage, other)
    outbox = Outbox(other / "study" / "outbox")
    outbox.append(TrialStarted(trial=7, params={}, config={"model": {}}))
    outbox.append(TrialEnded(trial=7, step=1, outcome=Outcome.FAILED))
    outbox.append(StudyEnded(status=StudyStatus.FINISHED))
    outbox.close()
    shipper = Shipper(other / "study" / "outbox", default_uri(other), "proxytune")
    shipper.start()
    assert shipper.close(280) == 0, shipper.error
    assert files(storage) == before
    runs = MlflowClient(tracking_uri=default_uri(other)).search_runs(["1"])
    assert len(runs) == 4, "the study, two copied trials and a new trial"
    assert {Path(str(run.info.artifact_uri)).is_relative_to(other) for run in runs} == {True}
    assert leaderboards(other, default_uri(other)).keys() == {"study"}
