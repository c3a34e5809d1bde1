"""Failing calls and changes by others in MLflow: nothing is lost or duplicated, and shipping continues."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.tracking import mlflow_runs as runs_module
from proxytune.tuning.tracking import mlflow_sync as sync_module
from proxytune.tuning.tracking.mlflow_runs import Blocked
from proxytune.tuning.tracking.mlflow_sync import MlflowSync
from tests.benchmarks.synthetic import synthetic_events
from tests.tuning.tracking.syncing import STUDY_END, Fill, end, report, start, study, synced


class Faulty:
    """An MLflow client whose calls fail at random, before or after MLflow has executed them."""

    def __init__(self, client: Any, chance: random.Random, rate: float) -> None:
        self._client, self._chance, self._rate = client, chance, rate

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def faulty(*args: Any, **kwargs: Any) -> Any:
            drawn = self._chance.random()
            if drawn < self._rate / 2:
                raise ConnectionError("request not sent")
            response = call(*args, **kwargs)
            if drawn < self._rate:
                raise ConnectionError("response lost")
            return response

        return faulty


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_failing_calls_lose_and_duplicate_nothing(
    monkeypatch: pytest.MonkeyPatch, fill: Fill, outbox_folder: Path, uri: str, store: Any, seed: int
) -> None:
    """One call in ten fails; after every second failure, on average, shipping restarts as after a kill."""
    monkeypatch.setattr(sync_module, "BATCH_BYTES", 1500)
    chance = random.Random(seed)
    monkeypatch.setattr(
        runs_module, "MlflowClient", lambda **options: Faulty(MlflowClient(**options), chance, 0.1)
    )
    fill(synthetic_events(8, steps=100, seed=seed))
    failures = 0
    sync: MlflowSync | None = None
    for _ in range(2000):
        if sync is None:
            sync = MlflowSync(outbox_folder, uri, "proxytune")
        try:
            if not sync.ship():
                break
            if chance.random() < 0.8:  # otherwise, as after a kill before the acknowledgement
                sync.acknowledge()
            else:
                sync = None
        except ConnectionError:
            failures += 1
            if chance.random() < 0.5:
                sync = None
    assert failures > 5
    assert store.differences(outbox_folder) == {}
    assert store.parent().data.metrics["trials_open"] == 0


def test_lost_acknowledgement_creates_no_second_run(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    fill([study(), start(0), report(0, 5, val_accuracy=0.5), end(0, "complete", val_accuracy=0.5), start(1)])
    synced(outbox_folder, uri)
    before = {run.info.run_id for run in store.runs()}
    (acknowledgement,) = outbox_folder.glob("acknowledged-*.json")
    acknowledgement.unlink()
    synced(outbox_folder, uri)
    assert {run.info.run_id for run in store.runs()} == before
    fill([end(1, "complete", val_accuracy=0.1), STUDY_END])
    synced(outbox_folder, uri)
    assert store.differences(outbox_folder) == {}


def test_late_run_creation_leaves_no_duplicate(
    monkeypatch: pytest.MonkeyPatch, fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    """A request to create a run times out and is repeated; then the server executes the first request as well."""
    fill([study(), start(0), report(0, 5, val_accuracy=0.5)])
    late: list[Callable[[], Any]] = []
    create = MlflowClient.create_run

    def time_out(*args: Any, **kwargs: Any) -> Any:
        if len(late) < 2 and kwargs.get("run_name") != "study" and "study" not in args:
            late.append(lambda: create(*args, **kwargs))
            raise TimeoutError("no response")
        return create(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_run", time_out)
    sync = MlflowSync(outbox_folder, uri, "proxytune")
    for _ in range(2):
        with pytest.raises(TimeoutError):
            sync.ship()
    assert sync.ship()
    sync.acknowledge()
    for execute in late:
        execute()
    assert store.differences(outbox_folder)["duplicate runs"] == 2
    sync.remove_twins()
    fill([end(0, "complete", val_accuracy=0.6), STUDY_END])
    synced(outbox_folder, uri)
    assert store.differences(outbox_folder) == {}


def test_deleted_experiment_blocks_shipping_until_it_is_restored(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    fill([study(), start(0)])
    synced(outbox_folder, uri)
    identifier = store.client.get_experiment_by_name("proxytune").experiment_id
    store.client.delete_experiment(identifier)
    fill(
        [start(0, attempt=2), report(0, 5, val_accuracy=0.5), end(0, "complete", val_accuracy=0.5), STUDY_END]
    )
    with pytest.raises(Blocked, match=rf"restore --experiment-id {identifier}"):
        synced(outbox_folder, uri)
    store.client.restore_experiment(identifier)
    synced(outbox_folder, uri)
    assert store.differences(outbox_folder) == {}


def test_deleted_run_is_not_recreated_and_is_reported(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    fill([study(), start(0), start(1)])
    synced(outbox_folder, uri)
    store.client.delete_run(store.trials()[0].info.run_id)
    outbox = Outbox(outbox_folder)
    for number in (0, 1):
        outbox.append(start(number, attempt=2))
        outbox.append(end(number, "complete", val_accuracy=0.5))
    outbox.close()
    sync = synced(outbox_folder, uri)
    assert sync.notice is not None
    assert "trial 0" in sync.notice
    assert {number: run.info.status for number, run in store.trials().items()} == {1: "FINISHED"}


def test_rejected_metric_name_is_reported_and_shipping_continues(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    invalid = {"no|such": 1.0}
    fill([study(), start(0), report(0, 5, **invalid), start(1), end(1, "complete", val_accuracy=0.5)])
    sync = synced(outbox_folder, uri)
    assert sync.notice is not None
    assert "trial 0" in sync.notice
    assert store.trials()[1].info.status == "FINISHED"


def test_mlflow_knows_the_error_codes_of_refusals() -> None:
    """`REFUSALS` contains the codes as text."""
    for code in sync_module.REFUSALS:
        assert MlflowException("x", ErrorCode.Value(code)).error_code == code
