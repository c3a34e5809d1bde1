"""The speed of a configuration: measured once per distinct cost, while nothing trains on the machine."""

import json
import shutil
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from proxytune.datasets import TrainBatches
from proxytune.datasets.batches import Batch
from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.trial import efficiency
from proxytune.tuning.trial import slot as slot_module
from proxytune.tuning.trial.data import prepare_task
from proxytune.tuning.trial.efficiency import (
    efficiency_key,
    measure_efficiency,
    sequences_per_second,
    stored_efficiency,
    typical_batches,
)
from proxytune.tuning.trial.profile import predicted_profile
from proxytune.tuning.trial.slot import exclusive_slot


def test_measurement_has_speeds_and_the_predicted_profile(make_spec) -> None:
    spec = make_spec().trial({})
    measured = measure_efficiency(spec, seconds=0.0)
    speeds = {"train_sequences_per_second", "inference_sequences_per_second"}
    assert {name: value for name, value in measured.items() if name not in speeds} == predicted_profile(spec)
    assert all(measured[name] > 0 for name in speeds)


def test_speed_uses_the_median_time_of_each_batch() -> None:
    batches = [Batch(torch.zeros(size, 1), torch.ones(size, 1), torch.zeros(size)) for size in (3, 5)]
    clock = 0.0
    costs = iter(
        [100, 100, 0.1, 0.3, 50, 0.3, 0.1, 0.3]
    )  # a warm-up pass and three passes, the second disturbed

    def work(_batch: Batch) -> None:
        nonlocal clock
        clock += next(costs)

    speed = sequences_per_second(work, batches, seconds=51, clock=lambda: clock)
    assert speed == pytest.approx(8 / (0.1 + 0.3))


def test_typical_batches_cover_the_distribution_of_lengths(make_spec, monkeypatch) -> None:
    # With the default multiple of 32, all of these short rows would have the same length.
    monkeypatch.setattr("proxytune.datasets.batches.PAD_MULTIPLE", 1)
    split = prepare_task(make_spec().task).train
    lengths = [batch.token_ids.shape[-1] for batch in typical_batches(split, 8)]
    drawn = islice(TrainBatches(split, batch_size=8, seed=0, order="uniform"), 64)
    all_lengths = [batch.token_ids.shape[-1] for batch in drawn]
    assert lengths == list(np.quantile(all_lengths, [1 / 8, 3 / 8, 5 / 8, 7 / 8], method="higher"))
    assert len({*lengths}) > 1


@pytest.mark.parametrize(
    "change",
    [
        "model.contrastive_temperature=0.5",
        "model.dropout=0.3",
        "training.seed=7",
        "training.learning_rate=0.01",
        "training.steps=90",
        "name=other",
    ],
)
def test_settings_without_effect_on_cost_keep_the_key(make_spec, change: str) -> None:
    spec, changed = make_spec().trial({}), make_spec(change).trial({})
    assert efficiency_key(changed) == efficiency_key(spec)
    assert predicted_profile(changed) == predicted_profile(spec)


@pytest.mark.parametrize(
    "change",
    [
        "model.num_proxies=8",
        "model.dropout=0.0",
        "model.injection=none",
        "training.batch_size=16",
        "training.precision=bf16",
        "task.max_length=512",
        "resources.cpu=2",
    ],
)
def test_settings_with_effect_on_cost_change_the_key(make_spec, change: str) -> None:
    assert efficiency_key(make_spec(change).trial({})) != efficiency_key(make_spec().trial({}))


@pytest.mark.usefixtures("quick_measurements")
def test_measurement_is_stored_and_reused(make_spec, tmp_path: Path) -> None:
    folder = tmp_path / "efficiency"
    first = stored_efficiency(make_spec().trial({"model.dropout": 0.2}), folder)
    second = stored_efficiency(make_spec("training.seed=5").trial({"model.dropout": 0.1}), folder)
    assert second == first  # two measurements never return identical speeds
    [file] = folder.iterdir()
    file.write_text("{", encoding="utf-8")  # a damaged file: measured again
    assert stored_efficiency(make_spec().trial({}), folder) != first
    assert [file] == list(folder.iterdir())


@pytest.mark.usefixtures("quick_measurements")
@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ("model.num_proxies=8", "costs"),
        ("task.train_examples=512", "data"),
        ("resources.cpu=2", "threads"),
        (None, "device"),
    ],
)
def test_stored_measurement_of_another_configuration_is_replaced(
    make_spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str | None, differs: str
) -> None:
    """The file was copied, or restored from a backup, under the name of a configuration of this study."""
    folder, other_folder = tmp_path / "efficiency", tmp_path / "other"
    with monkeypatch.context() as patch:
        if change is None:
            patch.setattr(efficiency, "processor", lambda: "another CPU")
        stored_efficiency(make_spec(*[change] if change else []).trial({}), other_folder)
    [foreign] = other_folder.iterdir()
    file = folder / f"{efficiency_key(make_spec().trial({}))}.json"
    folder.mkdir()
    shutil.copyfile(foreign, file)
    measured = stored_efficiency(make_spec().trial({}), folder)
    assert list(folder.iterdir()) == [file]
    stored, other = json.loads(file.read_text()), json.loads(foreign.read_text())
    assert {differs, "efficiency"} <= {key for key in stored if stored[key] != other[key]}
    assert stored["efficiency"] == measured


TRAIN_CONTINUOUSLY = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("slot", sys.argv[1])
slot = importlib.util.module_from_spec(spec)
spec.loader.exec_module(slot)
while True:
    with slot.shared_slot():
        began = time.monotonic()
        time.sleep(0.002)
        print(began, time.monotonic(), flush=True)
"""


def test_exclusive_slot_excludes_training_and_is_not_starved(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(3)]
    trainers = []
    for path in paths:
        with path.open("w") as file:
            command = [sys.executable, "-P", "-c", TRAIN_CONTINUOUSLY, str(slot_module.__file__)]
            trainers.append(subprocess.Popen(command, stdout=file))
    try:
        exclusive = []
        for _ in range(5):
            before = sum(path.stat().st_size for path in paths)
            deadline = time.monotonic() + 240
            while not all(path.stat().st_size for path in paths) or before == sum(
                path.stat().st_size for path in paths
            ):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            with exclusive_slot():
                began = time.monotonic()
                time.sleep(0.02)
                exclusive.append((began, time.monotonic()))
    finally:
        for trainer in trainers:
            trainer.kill()
            trainer.wait()
    lines = [line.split() for path in paths for line in path.read_text().splitlines()]
    intervals = [tuple(map(float, line)) for line in lines if len(line) == 2]
    assert len(intervals) > 10
    for began, ended in exclusive:
        assert not [interval for interval in intervals if interval[0] < ended and began < interval[1]]


@pytest.mark.gpu
def test_memory_is_measured_on_a_gpu(make_spec) -> None:
    spec = make_spec().trial({})
    measured, predicted = measure_efficiency(spec)[MEMORY], predicted_profile(spec)[MEMORY]
    assert measured != predicted
    assert 0.5 < measured / predicted < 2
