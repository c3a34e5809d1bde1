"""Valid tokens per second of training on Text: length-bucketed batches against full padding, same model and steps."""

import itertools
import os
import time
from pathlib import Path

import pytest
import torch

from proxytune.datasets import TrainBatches, prepare
from proxytune.models.config import ModelConfig
from proxytune.models.training import Trainer, TrainingConfig

DATA = Path(os.environ.get("LRA_ROOT", Path(__file__).parents[2].parent / "shared" / "data"))
STEPS = int(os.environ.get("PROXYTUNE_BENCH_STEPS", "8"))


@pytest.mark.bench
@pytest.mark.realdata
def test_valid_tokens_per_second(tmp_path):
    if not (DATA / "aclImdb_v1.tar.gz").exists():
        pytest.skip(f"no reviews under {DATA}; set LRA_ROOT")
    prepared = prepare("text", root=DATA, cache=tmp_path)
    info = prepared.info
    model = ModelConfig(vocab_size=info.vocab_size, max_length=info.max_length, num_classes=info.num_classes)
    training = TrainingConfig(
        steps=1000, warmup_steps=100, batch_size=32, learning_rate=1e-4, eval_every=1000, precision="fp32"
    )
    rates = {"bucketed": [0, 0.0], "full padding": [0, 0.0]}
    runs = {
        name: (
            Trainer(model, training, seed=0),
            TrainBatches(prepared.train, batch_size=32, seed=0, full_padding=name == "full padding"),
        )
        for name in rates
    }
    for trainer, batches in runs.values():
        trainer.train_step(next(batches))
    losses: dict[str, list[float]] = {name: [] for name in runs}
    for _, name in itertools.product(
        range(STEPS), runs
    ):  # alternating, so that other load affects both equally
        trainer, batches = runs[name]
        started = time.perf_counter()
        batch = next(batches)
        losses[name].append(trainer.train_step(batch)["train_loss"])
        rates[name][1] += time.perf_counter() - started
        rates[name][0] += int(batch.mask.sum())
    per_second = {name: tokens / seconds for name, (tokens, seconds) in rates.items()}
    print(
        f"\n{STEPS} steps of 32 reviews, {torch.get_num_threads()} threads: "
        + ", ".join(f"{name} {rate:,.0f} valid tokens/s" for name, rate in per_second.items())
        + f"; ratio {per_second['bucketed'] / per_second['full padding']:.2f}"
    )
    assert rates["bucketed"][0] == rates["full padding"][0]  # the same rows
