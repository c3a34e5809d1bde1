"""Valid tokens per second of training on the task `text`: length-bucketed batches compared with full padding."""

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
def test_bucketed_batches_and_full_padding_train_on_the_same_tokens(tmp_path):
    """Prints the rates; asserts only that both train on the same number of valid tokens."""
    if not (DATA / "aclImdb_v1.tar.gz").exists():
        pytest.skip(f"no IMDB reviews in {DATA}; set LRA_ROOT")
    prepared = prepare("text", root=DATA, cache=tmp_path)
    info = prepared.info
    model = ModelConfig(vocab_size=info.vocab_size, max_length=info.max_length, num_classes=info.num_classes)
    training = TrainingConfig(
        steps=1000, warmup_steps=100, batch_size=32, learning_rate=1e-4, eval_every=1000, precision="fp32"
    )
    totals = {"bucketed": [0, 0.0], "full padding": [0, 0.0]}  # valid tokens, seconds
    runs = {
        name: (
            Trainer(model, training, seed=0),
            TrainBatches(prepared.train, batch_size=32, seed=0, full_padding=name == "full padding"),
        )
        for name in totals
    }
    for trainer, batches in runs.values():
        trainer.train_step(next(batches))
    # The two alternate, so that other load affects both equally.
    for _, name in itertools.product(range(STEPS), runs):
        trainer, batches = runs[name]
        started = time.perf_counter()
        batch = next(batches)
        trainer.train_step(batch)
        totals[name][1] += time.perf_counter() - started
        totals[name][0] += int(batch.mask.sum())
    per_second = {name: tokens / seconds for name, (tokens, seconds) in totals.items()}
    print(
        f"\n{STEPS} steps of 32 reviews, {torch.get_num_threads()} threads: "
        + ", ".join(f"{name} {rate:,.0f} valid tokens/s" for name, rate in per_second.items())
        + f"; ratio {per_second['bucketed'] / per_second['full padding']:.2f}"
    )
    assert totals["bucketed"][0] == totals["full padding"][0]
