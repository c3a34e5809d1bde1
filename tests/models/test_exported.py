"""Model configurations in exports of earlier versions keep their meaning."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from proxytune.models.config import ModelConfig
from proxytune.models.exported import model_config


@pytest.mark.parametrize(("injection", "length"), [("segment", "padded"), ("none", "valid")])
def test_config_without_injection_length_uses_the_padded_length(injection: str, length: str) -> None:
    config = ModelConfig(vocab_size=16, max_length=128, num_classes=2, injection=injection)
    values = asdict(config)
    assert model_config({"model": values}) == config
    for added in ("injection_length", "attention_precision", "proxy_init_std"):
        del values[added]
    assert model_config({"model": values}).injection_length == length
