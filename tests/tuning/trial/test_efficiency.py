"""A configuration's speed: measured once for each distinct cost, alone on the machine."""

import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from proxytune.datasets import TrainBatches
from proxytune.tuning.data import prepare_task
from proxytune.tuning.metrics import MEMORY
from proxytune.tuning.trial.efficiency import (
    efficiency_key,
    measure_efficiency,
    stored_efficiency,
    typical_batches,
)
from proxytune.tuning.trial.profile import predicted_profile
from proxytune.tuning.trial.slot import exclusive_slot


def test_speed_memory_and_size_are_there_in_a_plausible_order(make_spec) -> None:
    threads = torch.get_num_threads()
    small, large = (
        measure_efficiency(
            make_spec(f"model.embedding_dim={dim}", f"resources.cpu={threads + 1}").trial({}), seconds=0.1
        )
        for dim in (8, 128)
    )
    assert torch.get_num_threads() == threads
    for measured in (small, large):
        assert all(value > 0 for value in measured.values())
    for name in ("train_sequences_per_second", "inference_sequences_per_second"):
        assert small[name] > large[name]  # over 100 times the FLOPs
    for name in (MEMORY, "flops_per_sequence", "parameters"):
        assert small[name] < large[name]


def test_the_timed_batches_stand_for_all_lengths(make_spec) -> None:
    split = prepare_task(make_spec().task).train
    lengths = [batch.token_ids.shape[-1] for batch in typical_batches(split, 8)]
    drawn = islice(TrainBatches(split, batch_size=8, seed=0), 64)
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
def test_what_costs_the_same_has_the_same_key(make_spec, change: str) -> None:
    one, other = make_spec().trial({}), make_spec(change).trial({})
    assert efficiency_key(other) == efficiency_key(one)
    assert predicted_profile(other) == predicted_profile(one)


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
def test_what_may_cost_otherwise_has_another_key(make_spec, change: str) -> None:
    assert efficiency_key(make_spec(change).trial({})) != efficiency_key(make_spec().trial({}))


def test_it_is_measured_once_and_kept(make_spec, tmp_path: Path) -> None:
    first = stored_efficiency(make_spec().trial({"model.dropout": 0.2}), tmp_path / "kept")
    again = stored_efficiency(make_spec("training.seed=5").trial({"model.dropout": 0.1}), tmp_path / "kept")
    assert again == first  # a second measurement never gives the same digits
    [file] = (tmp_path / "kept").iterdir()
    file.write_text("{", encoding="utf-8")  # a damaged disk: measured again, not believed
    assert stored_efficiency(make_spec().trial({}), tmp_path / "kept") != first
    assert [file] == list((tmp_path / "kept").iterdir())


TRAIN_WITHOUT_A_BREAK = """
import sys, time
from proxytune.tuning.trial.slot import shared_slot
while True:
    with shared_slot():
        began = time.monotonic()
        time.sleep(0.002)
        print(began, time.monotonic(), flush=True)
"""


def test_nothing_trains_while_a_speed_is_measured_and_training_cannot_keep_it_out(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(3)]
    trainers = []
    for path in paths:
        with path.open("w") as file:
            command = [sys.executable, "-P", "-c", TRAIN_WITHOUT_A_BREAK]
            trainers.append(subprocess.Popen(command, stdout=file))
    try:
        alone = []
        for _ in range(5):
            before = sum(path.stat().st_size for path in paths)
            deadline = time.monotonic() + 60
            while not all(path.stat().st_size for path in paths) or before == sum(
                path.stat().st_size for path in paths
            ):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            with exclusive_slot():
                began = time.monotonic()
                time.sleep(0.02)
                alone.append((began, time.monotonic()))
    finally:
        for trainer in trainers:
            trainer.kill()
            trainer.wait()
    lines = [line.split() for path in paths for line in path.read_text().splitlines()]
    turns = [tuple(map(float, line)) for line in lines if len(line) == 2]
    assert len(turns) > 10
    for began, ended in alone:
        assert not [turn for turn in turns if turn[0] < ended and began < turn[1]]


@pytest.mark.gpu
def test_memory_is_measured_where_the_device_counts_it(make_spec) -> None:
    spec = make_spec().trial({})
    measured, predicted = measure_efficiency(spec)[MEMORY], predicted_profile(spec)[MEMORY]
    assert measured != predicted
    assert 0.5 < measured / predicted < 2
