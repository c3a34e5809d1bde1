"""Exported programs (torch.export, ONNX) of every attention mechanism return the logits of the eager model."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from proxytune.models.attention import MECHANISMS
from proxytune.models.classifier import Classifier
from proxytune.models.config import ModelConfig
from proxytune.models.exported import model_file
from proxytune.tuning.export.programs import ONNX, PT2, export_program, run_onnx, run_pt2, write_unchecked

LENGTH = 40
NAMES = sorted(MECHANISMS)
FIXED_LENGTH = {"bigbird", "linformer", "reformer"}
"""Mechanisms whose programs accept only the task's maximum length."""
NOT_IN_ONNX = {"reformer"}
VARIANTS: list[dict[str, Any]] = [
    {"attention": "proxyformer", "injection": "cross-attention", "conv_kernel_size": 3},
    {"attention": "proxyformer", "injection": "carried", "pseudo_inverse": True},
    {"attention": "proxyformer", "injection": "none", "shared_proxies": True, "own_proxy_projections": True},
    {"attention": "proxyformer", "num_documents": 2},
    {"attention": "nystromformer", "conv_kernel_size": 3},
    {"attention": "performer", "performer_kernel": "softmax"},
]


def build(**changes: Any) -> Classifier:
    small: dict[str, Any] = {
        "vocab_size": 16,
        "max_length": LENGTH,
        "num_classes": 3,
        "num_layers": 1,
        "embedding_dim": 16,
        "feedforward_dim": 16,
        "num_proxies": 6,
        "num_landmarks": 6,
        "num_features": 6,
        "block_size": 8,
        "num_random_blocks": 1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier(ModelConfig(**(small | changes))).eval()


def make_batches(model: Classifier, *, fixed: bool) -> list[list[torch.Tensor]]:
    """Batches of several sizes and lengths; in each, one sequence is half padding."""
    documents = [2] if model.config.num_documents == 2 else []
    lengths = [LENGTH] if fixed else [LENGTH, 33, 7, 1]
    batches = []
    for size, length in ((size, length) for length in lengths for size in (1, 5)):
        ids = torch.randint(
            1, 16, (size, *documents, length), generator=torch.Generator().manual_seed(length)
        )
        ids[0, ..., max(1, length // 2) :] = 0
        batches.append([ids, ids != 0])
    return batches


def assert_same_logits(model: Classifier, program: Any, *, fixed: bool, tolerance: float) -> None:
    with torch.no_grad():
        for batch in make_batches(model, fixed=fixed):
            assert torch.allclose(program(*batch), model(*batch), atol=tolerance, rtol=tolerance)


QUICK = {"proxyformer", "linformer", "softmax"}  # dynamic length, fixed length, and the softmax baseline


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_exported_program_returns_the_eager_logits(name: str) -> None:
    model = build(attention=name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program, length = export_program(model)
    assert length == (f"exactly {LENGTH}" if name in FIXED_LENGTH else f"1 to {LENGTH}")
    assert_same_logits(model, program.module(), fixed=name in FIXED_LENGTH, tolerance=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("changes", [*({"attention": name} for name in NAMES), *VARIANTS], ids=str)
def test_saved_programs_return_the_eager_logits(changes: dict[str, Any], tmp_path: Path) -> None:
    layers = {"num_layers": 2}
    model = build(**(layers | changes))
    (tmp_path / "model.json").write_text(json.dumps(model_file(model.config)))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    facts = write_unchecked(tmp_path)
    name = str(changes["attention"])
    batches = make_batches(model, fixed=name in FIXED_LENGTH)
    with torch.no_grad():
        expected = [model(*batch).numpy() for batch in batches]
    arrays = [[tensor.numpy() for tensor in batch] for batch in batches]
    assert "missing" not in facts[PT2]
    for actual, logits in zip(run_pt2(tmp_path / PT2, arrays), expected, strict=True):
        assert actual == pytest.approx(logits, abs=1e-6)
    if name in NOT_IN_ONNX:
        assert "No ONNX function found for" in facts[ONNX]["missing"]
        assert not (tmp_path / ONNX).exists()
        return
    assert "missing" not in facts[ONNX], facts[ONNX]
    for actual, logits in zip(run_onnx(tmp_path / ONNX, arrays), expected, strict=True):
        assert actual == pytest.approx(logits, abs=1e-4)
