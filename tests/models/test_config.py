"""ModelConfig: an invalid configuration raises a one-line error on construction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxytune.models.attention import MECHANISMS
from proxytune.models.classifier import Classifier
from proxytune.models.config import CHECKS, ModelConfig
from proxytune.models.errors import ConfigError

TASK: dict[str, Any] = {"vocab_size": 16, "max_length": 64, "num_classes": 2, "num_proxies": 16}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "num_heads 3 does not divide embedding_dim 64: choose a divisor"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_layers": 0}, "num_layers is 0: it must be an integer of at least 1"),
        ({"num_layers": 2.0}, "num_layers is 2.0"),
        ({"num_layers": 1001}, "num_layers is 1001: it must be at most 1000"),
        ({"feedforward_dim": 10**18}, "feedforward_dim is 1000000000000000000: it must be at most"),
        (
            {"embedding_dim": 2**20},
            r"a model of 1\.1e\+13 parameters: at most 1e\+10 are allowed; lower embedding_dim",
        ),
        ({"num_layers": True}, "num_layers is True"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"dropout": 1.0}, r"dropout is 1.0: it must be a number in \[0, 1\)"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1"),
        ({"num_documents": 3}, "num_documents is 3: choose one of 1, 2"),
        ({"attention": "proxyfromer"}, "attention is 'proxyfromer': did you mean 'proxyformer'"),
        ({"num_proxies": 0}, "num_proxies is 0"),
        ({"num_proxies": 65}, "num_proxies is 65: it must not exceed max_length 64"),
        ({"contrastive_temperature": 0.0}, "contrastive_temperature is 0.0"),
        ({"contrastive_temperature": "1e-4"}, "contrastive_temperature is '1e-4'"),
        ({"contrastive_weight": -1.0}, "contrastive_weight is -1.0"),
        ({"injection": "segments"}, "did you mean 'segment'"),
        ({"injection": "carried", "num_layers": 1}, "nothing is carried into the first layer"),
        ({"contrastive": "two-views", "injection": "none"}, "both views are the same"),
        (
            {"injection": "none", "injection_length": "padded"},
            "injection_length is 'padded' with injection 'none': only 'segment' divides a length",
        ),
        ({"injection_length": "vaild"}, "did you mean 'valid'"),
        ({"contrastive": "kernel_logits"}, "did you mean 'kernel-logits'"),
        ({"proxy_init_std": 0.0}, "proxy_init_std is 0.0: it must be a finite number above 0"),
        ({"attention_precision": "fp16"}, "attention_precision is 'fp16': choose one of fp32, autocast"),
        ({"decomposed_dropout": "row"}, "decomposed_dropout is 'row'"),
        ({"pseudo_inverse": "none"}, "pseudo_inverse is 'none'"),
        ({"conv_kernel_size": 34}, "conv_kernel_size is 34: it must be odd"),
        ({"attention": "nystromformer", "num_landmarks": 128}, "num_landmarks is 128: it must not exceed"),
        ({"attention": "linformer", "num_features": 128}, "num_features is 128: it must not exceed"),
        ({"attention": "performer", "performer_kernel": "exp"}, "performer_kernel is 'exp'"),
        ({"attention": "performer", "num_features": 0}, "num_features is 0"),
        ({"attention": "reformer", "num_hashes": 0}, "num_hashes is 0"),
        ({"attention": "bigbird", "block_size": 0}, "block_size is 0"),
        ({"attention": "bigbird", "num_random_blocks": -1}, "num_random_blocks is -1"),
    ],
)
def test_invalid_model_config_is_rejected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        ModelConfig(**(TASK | change))
    assert "\n" not in str(raised.value)


def test_fields_of_other_mechanisms_are_not_checked() -> None:
    ModelConfig(**(TASK | {"attention": "softmax", "num_proxies": 1000, "num_landmarks": 0}))


def test_every_mechanism_has_config_checks() -> None:
    assert CHECKS.keys() == MECHANISMS.keys()


@pytest.mark.parametrize("attention", sorted(MECHANISMS))
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_documents": 2, "num_classes": 7, "num_layers": 3, "embedding_dim": 32, "num_heads": 4},
        {"conv_kernel_size": 9, "shared_proxies": True, "own_proxy_projections": True},
        {"injection": "none", "contrastive": "none", "feedforward_dim": 48, "num_random_blocks": 1},
        {"injection": "cross-attention", "pseudo_inverse": True, "num_features": 8, "num_proxies": 4},
        {"injection": "carried", "num_landmarks": 8, "max_length": 128, "performer_kernel": "relu"},
    ],
)
def test_num_parameters_agrees_with_the_built_model(attention: str, change: dict[str, Any]) -> None:
    config = ModelConfig(**(TASK | {"max_length": 256, "attention": attention} | change))
    built = Classifier(config)
    assert config.num_parameters == sum(parameter.numel() for parameter in built.parameters())


def test_attention_dropout_defaults_to_dropout() -> None:
    model = ModelConfig(**(TASK | {"dropout": 0.3}))
    assert model.attention_dropout_probability == 0.3
    assert replace(model, attention_dropout=0.0).attention_dropout_probability == 0.0
