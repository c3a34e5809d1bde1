"""`gpu: auto`: shares of GPUs by predicted memory with a learned margin. Only the last test needs a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from proxytune.tuning.search.packing import (
    START_MARGIN,
    Packing,
    packed_slots,
    predicted_mib,
    share_of_gpu,
    trials_per_gpu,
)
from proxytune.tuning.trial.gpu import CONTEXT_MIB, begin_on_gpu, taken_mib
from proxytune.tuning.trial.update import TrialUpdate
from tests.tuning.search.driving import Driver

MIB = st.floats(1, 1e6)


@given(predicted=MIB, gpu=MIB, margin=st.floats(1, 5), most=st.integers(1, 64))
def test_share_admits_as_many_trials_as_fit_in_memory(
    predicted: float, gpu: float, margin: float, most: int
) -> None:
    share = share_of_gpu(predicted, gpu, margin, most)
    together = round(1 / share)
    need = predicted * margin + CONTEXT_MIB
    assert share * together <= 1
    assert 1 <= together <= most
    if together > 1:
        assert together * need <= gpu
    if together < most:
        assert (together + 1) * need > gpu


def test_margin_is_ten_percent_above_the_largest_measured_ratio(make_spec) -> None:
    spec = make_spec("training.batch_size=64").trial({})
    packing = Packing(gpu_mib=80_000, most=8)
    assert packing.margin == START_MARGIN
    assert packing.record(spec, 1.2 * predicted_mib(spec))
    assert packing.margin == pytest.approx(1.32)
    assert not packing.record(spec, 0.5 * predicted_mib(spec))
    assert packing.margin == pytest.approx(1.32)
    assert Packing(gpu_mib=80_000, most=8, worst=0.4).margin == pytest.approx(
        1.1
    )  # never below the prediction


def test_trials_start_while_a_fraction_of_a_gpu_is_free() -> None:
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}]
    assert trials_per_gpu(nodes, 2.0) == 2
    assert packed_slots(nodes, 2.0, taken=1.5, live=2, max_concurrent=None) == 3
    assert packed_slots(nodes, 2.0, taken=1.9998, live=6, max_concurrent=None) == 4  # six thirds
    assert packed_slots(nodes, 2.0, taken=1.0, live=4, max_concurrent=None) == 4  # no core is left
    assert packed_slots(nodes, 2.0, taken=0.5, live=1, max_concurrent=1) == 1


def test_out_of_memory_in_a_share_retries_with_a_full_gpu(make_spec) -> None:
    spec = make_spec("training.batch_size=5000")
    driver = Driver(spec)
    driver.controller.pack(gpu_mib=8_000, most=4)
    first = driver.begin()
    assert first.gpu == 0.25
    assert driver.controller.gpus_taken == 0.25
    exhausted = TrialUpdate(
        step=5, outcome="out_of_memory", reason="out of memory", gpu_mib=3 * predicted_mib(first.spec)
    )
    assert driver.controller.receive(first.number, exhausted, {})
    assert driver.states() == [TrialState.WAITING]
    driver.crash()
    driver = Driver(spec)  # the learned margin is stored with the study
    driver.controller.pack(gpu_mib=8_000, most=4)
    again = driver.begin()
    assert (again.number, again.gpu) == (first.number, 1.0)
    assert driver.controller.receive(
        again.number, TrialUpdate(step=5, outcome="out_of_memory", reason="out of memory"), {}
    )
    assert driver.states() == [TrialState.FAIL]
    another = driver.begin()
    assert another.gpu == share_of_gpu(predicted_mib(another.spec), 8_000, 3.3, 4) == 0.3333


SEARCH = """
import functools, json, sys
from dataclasses import replace
import ray
ray.init = functools.partial(ray.init, num_cpus=4, num_gpus=1)  # Ray accepts the number of GPUs without detection
from proxytune.tuning.cluster import gpus
gpus.smallest_gpu_mib = lambda: 2000.0
sys.path.append(sys.argv[2])
from tests.benchmarks.turnaround import NoWork, NoWorkTrainable
from proxytune.tuning.search.packing import predicted_mib, share_of_gpu
from proxytune.tuning.spec.study_spec import parse_study
from proxytune.tuning.run.driver import run_study

class Granted(NoWork):
    def advance(self):
        update = super().advance()
        resources = ray.get_runtime_context().get_assigned_resources()
        return replace(update, metrics=update.metrics | {"val_accuracy": resources["GPU"]})

class GrantedTrainable(NoWorkTrainable):
    def _make_run(self):
        return Granted(self._spec, self._checkpoints)

spec = parse_study(json.loads(sys.argv[1]), "test")
study = run_study(spec, trainable=GrantedTrainable)
for trial in study.trials():
    share = share_of_gpu(predicted_mib(spec.trial(trial.params)), 2000.0, 1.5, 4)
    print(trial.params["training.batch_size"], trial.values[0], share)
"""


@pytest.mark.slow
def test_ray_grants_each_trial_its_predicted_share(make_spec) -> None:
    spec = make_spec(
        "search.space={training.batch_size: {choice: [8, 64]}, model.dropout: {low: 0.0, high: 0.1}}",
        "model.embedding_dim=64", "model.num_layers=4", "search.stopping.name=none", "search.trials=5",
        "search.enqueue=[{training.batch_size: 8}, {training.batch_size: 64}]",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-P", "-c", SEARCH, json.dumps(spec.model_dump(mode="json")), str(Path(__file__).parents[3])],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert len(rows) == 5
    assert all(granted == share for _, granted, share in rows)
    assert {share for _, _, share in rows} == {0.5, 0.3333}


@pytest.mark.gpu
def test_worker_is_limited_to_its_share_and_reports_its_peak_memory(make_spec) -> None:
    spec = make_spec().trial({})
    total = torch.cuda.get_device_properties(0).total_memory
    begin_on_gpu(spec, 0.25)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(total // 3, dtype=torch.uint8, device="cuda")
        held = torch.empty(64 * 2**20, dtype=torch.uint8, device="cuda")
        assert taken_mib(spec) >= held.nbytes / 2**20  # type: ignore[operator]
    finally:
        begin_on_gpu(spec, 1.0)
