"""What fails on the way to MLflow, or was changed there, loses and doubles nothing and stops nothing."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.tracking import mlflow_sync as mirror_module
from proxytune.tuning.tracking.mlflow_runs import Blocked
from proxytune.tuning.tracking.mlflow_sync import MlflowSync
from tests.benchmarks.synthetic import synthetic_events
from tests.tuning.tracking.syncing import STUDY_END, Fill, end, report, start, study, synced


class Faulty:
    """An MLflow client whose calls fail at random: before they reach MLflow, or after, when MLflow has done them."""

    def __init__(self, client: Any, chance: random.Random, share: float) -> None:
        self._client, self._chance, self._share = client, chance, share

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def faulty(*args: Any, **kwargs: Any) -> Any:
            luck = self._chance.random()
            if luck < self._share / 2:
                raise ConnectionError("never sent")
            answer = call(*args, **kwargs)
            if luck < self._share:
                raise ConnectionError("the answer was lost")
            return answer

        return faulty


@pytest.mark.parametrize("seed", range(2))
def test_failing_calls_lose_and_double_nothing(
    monkeypatch: pytest.MonkeyPatch, fill: Fill, outbox_folder: Path, uri: str, store: Any, seed: int
) -> None:
    """One call in ten fails; every failure drops the process's memory with even odds, as a kill would."""
    monkeypatch.setattr(mirror_module, "BATCH_BYTES", 1500)
    chance = random.Random(seed)
    fill(synthetic_events(8, steps=100, seed=seed))
    failures = 0
    sync: MlflowSync | None = None
    for _ in range(2000):
        if sync is None:
            sync = MlflowSync(outbox_folder, uri, "proxytune")
            sync._runs.client = Faulty(sync._runs.client, chance, 0.1)  # type: ignore[assignment]
        try:
            if not sync.ship():
                break
            if chance.random() < 0.8:  # else killed before the acknowledgement
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


def test_a_lost_acknowledgement_makes_no_second_run(
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


def test_a_creation_that_lands_late_leaves_no_twin(
    monkeypatch: pytest.MonkeyPatch, fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    """A client gives up on a slow server, makes the run again, and then the server carries out the first creation."""
    fill([study(), start(0), report(0, 5, val_accuracy=0.5)])
    sync = MlflowSync(outbox_folder, uri, "proxytune")
    client = sync._runs.client
    late: list[Callable[[], Any]] = []
    create = client.create_run

    def slow(*args: Any, **kwargs: Any) -> Any:
        if len(late) < 2 and kwargs.get("run_name") != "study" and "study" not in args:
            late.append(lambda: create(*args, **kwargs))
            raise TimeoutError("no answer")
        return create(*args, **kwargs)

    monkeypatch.setattr(client, "create_run", slow)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            sync.ship()
    assert sync.ship()
    sync.acknowledge()
    for land in late:
        land()
    assert store.differences(outbox_folder)["runs doubled"] == 2
    sync.remove_twins()
    fill([end(0, "complete", val_accuracy=0.6), STUDY_END])
    synced(outbox_folder, uri)
    assert store.differences(outbox_folder) == {}


def test_a_deleted_experiment_blocks_with_advice_and_recovers(
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


def test_a_run_that_somebody_deleted_stays_away_and_is_told(
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


def test_mlflow_refusing_one_metric_name_stops_nothing(
    fill: Fill, outbox_folder: Path, uri: str, store: Any
) -> None:
    bad = {"no|such": 1.0}
    fill([study(), start(0), report(0, 5, **bad), start(1), end(1, "complete", val_accuracy=0.5)])
    sync = synced(outbox_folder, uri)
    assert sync.notice is not None
    assert "trial 0" in sync.notice
    assert store.trials()[1].info.status == "FINISHED"


def test_mlflow_error_codes_are_what_we_take_them_for() -> None:
    """`REFUSALS` names codes as text; MLflow must know them."""
    for code in mirror_module.REFUSALS:
        from mlflow.protos.databricks_pb2 import ErrorCode

        assert MlflowException("x", ErrorCode.Value(code)).error_code == code
