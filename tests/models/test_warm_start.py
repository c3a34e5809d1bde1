"""Warm starts keep what two configurations share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from proxytune.models.config import ModelConfig
from proxytune.models.errors import ConfigError
from proxytune.models.training import Trainer, TrainingConfig

MODEL = ModelConfig(vocab_size=16, max_length=32, num_classes=3, num_proxies=8, embedding_dim=16)
TRAINING = TrainingConfig(steps=20, warmup_steps=4, batch_size=8, learning_rate=1e-2, eval_every=5)
PROXIES = "encoder.blocks.1.attention.proxies"


def weights(config: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    return Trainer(config, TRAINING, seed=seed).state_dict()["model"]


@pytest.mark.parametrize("num_proxies", [3, 8, 20])
def test_the_first_proxies_are_kept_and_new_ones_drawn(num_proxies: int) -> None:
    config = replace(MODEL, num_proxies=num_proxies)
    old, drawn = weights(MODEL, seed=1), weights(config, seed=2)
    started = Trainer(config, TRAINING, seed=2, initial_weights=old).model.state_dict()
    kept = min(num_proxies, 8)
    assert torch.equal(started[PROXIES][:kept], old[PROXIES][:kept])
    assert torch.equal(started[PROXIES][kept:], drawn[PROXIES][kept:])
    assert all(torch.equal(started[name], old[name]) for name in old if not name.endswith("proxies"))


def test_other_differences_are_refused() -> None:
    for change, message in (
        ({"max_length": 64}, r"positions.weight is \(32, 16\) and not \(64, 16\)"),
        ({"num_layers": 3}, "blocks.2.* only in the model"),
        ({"num_layers": 1}, "blocks.1.* only in the initial weights"),
        ({"injection": "none"}, "inject.weight is only in the initial weights"),
    ):
        with pytest.raises(ConfigError, match=message):
            Trainer(replace(MODEL, **change), TRAINING, initial_weights=weights(MODEL, seed=1))
