"""Specs that were stored by proxytune 0.1."""

from pathlib import Path
from typing import Any

import pytest

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.study_spec import parse_study
from proxytune.tuning.spec.trial_spec import load_trial
from proxytune.tuning.spec.yaml_file import as_yaml

MODEL_0_1 = {
    "attention": "proxyformer", "num_layers": 2, "embedding_dim": 64, "feedforward_dim": 128, "num_heads": 2,
    "dropout": 0.1, "attention_dropout": None, "num_proxies": 128, "contrastive_temperature": 0.07,
    "contrastive_weight": 0.1, "contrastive": "self", "injection": "segment", "decomposed_dropout": "column",
    "pseudo_inverse": False, "shared_proxies": False, "own_proxy_projections": False, "conv_kernel_size": 0,
    "num_landmarks": 128, "num_features": 128, "performer_kernel": "relu", "num_hashes": 2, "block_size": 64,
    "num_random_blocks": 3,
}  # fmt: skip
TRAINING_0_1 = {
    "steps": 30, "warmup_steps": 3, "batch_size": 8, "learning_rate": 1e-3, "eval_every": 10, "precision": "auto",
    "micro_batch_size": None, "compile": False, "seed": 0,
}  # fmt: skip


def stored(**model: Any) -> dict[str, Any]:
    return {
        "name": "old",
        "task": {"name": "listops-mini"},
        "model": MODEL_0_1 | model,
        "training": TRAINING_0_1,
    }


def test_spec_of_0_1_keeps_its_meaning() -> None:
    search = {"space": {"model.dropout": {"low": 0.0, "high": 0.3}}, "trials": 4}
    spec = parse_study(stored() | {"search": search}, "old")
    assert spec.model["contrastive"] == "self"
    assert spec.model["injection_length"] == "padded"
    assert spec.model["attention_precision"] == "autocast"
    assert spec.training["proxy_learning_rate_multiple"] == 1.0
    assert spec.training["batch_order"] == "bucketed"
    assert parse_study(spec.model_dump(mode="json"), "stored again") == spec


@pytest.mark.parametrize("attention", ["softmax", "nystromformer", "linformer", "proxyformer"])
def test_export_of_0_1_is_readable(tmp_path: Path, attention: str) -> None:
    (tmp_path / "config.yaml").write_text(as_yaml(stored(attention=attention)))
    assert load_trial(tmp_path / "config.yaml").model["attention"] == attention


@pytest.mark.parametrize("attention", ["performer", "reformer", "bigbird"])
def test_mechanism_with_another_computation_is_rejected(tmp_path: Path, attention: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(as_yaml(stored(attention=attention)))
    with pytest.raises(InputError, match=rf"config\.yaml: created by proxytune 0\.1.*{attention}"):
        load_trial(path)


def test_comparison_of_changed_mechanisms_is_rejected() -> None:
    search = {"space": {"model.attention": {"choice": ["softmax", "proxyformer"]}}, "trials": 2}
    with pytest.raises(InputError, match=r"study old: created by proxytune 0\.1"):
        parse_study(stored() | {"search": search}, "study old")
