"""Contract tests that every registered attention mechanism must pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from proxytune.models.attention import MECHANISMS, Trace
from proxytune.models.classifier import Classifier
from proxytune.models.config import ModelConfig

LENGTH = 72  # not a multiple of the block, nor of the number of proxies
NAMES = sorted(MECHANISMS)


def config(name: str, **changes: Any) -> ModelConfig:
    small: dict[str, Any] = {
        "vocab_size": 16,
        "max_length": LENGTH,
        "num_classes": 3,
        "num_proxies": 10,
        "num_landmarks": 10,
        "num_features": 10,
        "block_size": 8,
        "num_random_blocks": 2,
    }
    return ModelConfig(attention=name, **(small | changes))


def build(model_config: ModelConfig, scale: float = 3.0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(model_config)
        # At initialization, attention barely changes the output. Scale it so that a difference in attention is visible.
        with torch.no_grad():
            for block in model.encoder.blocks:
                for parameter in block.attention.parameters():
                    parameter.mul_(scale)
        return model.eval()


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(1, 16, shape, generator=torch.Generator().manual_seed(seed))


def encode(model: Classifier, token_ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.encoder(token_ids, token_ids != 0, Trace())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = build(config(name)).train()
    token_ids = tokens(4, LENGTH)
    logits = model(token_ids, token_ids != 0)
    assert logits.shape == (4, 3)
    logits.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        # A bias of the keys adds a constant to all logits of a row, which softmax ignores.
        if not parameter_name.endswith("key.bias"):
            assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_deterministic_and_training_is_stochastic(name: str) -> None:
    model = build(config(name))
    token_ids = tokens(3, LENGTH)
    assert torch.equal(encode(model, token_ids), encode(model, token_ids))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.train()
        assert not torch.equal(encode(model, token_ids), encode(model, token_ids))


@pytest.mark.parametrize("name", NAMES)
def test_changed_token_changes_encodings_of_other_tokens(name: str) -> None:
    model = build(config(name))
    token_ids = tokens(1, LENGTH)
    changed = token_ids.clone()
    changed[0, 3] = token_ids[0, 3] % 15 + 1
    moved = (encode(model, token_ids) - encode(model, changed)).abs().amax(dim=-1)[0]
    assert (moved > 1e-6).sum() > 5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("valid", [1, 7, 40, LENGTH])
def test_padding_does_not_change_encodings(name: str, valid: int) -> None:
    """Encodings are the same when padded to the task's length, trimmed, or in a batch with a longer sequence."""
    model = build(config(name))
    padded = tokens(3, LENGTH)
    padded[:, valid:] = 0
    mixed = torch.cat([padded, tokens(1, LENGTH, seed=2)])
    full, trimmed, with_longer = (encode(model, batch) for batch in (padded, padded[:, :valid], mixed))
    assert torch.allclose(full[:, :valid], trimmed, atol=1e-5)
    assert torch.allclose(full, with_longer[:3], atol=1e-5)
    assert not full[:, valid:].any()


@pytest.mark.parametrize("name", NAMES)
def test_token_ids_at_masked_positions_are_ignored(name: str) -> None:
    model = build(config(name))
    token_ids, other = tokens(2, LENGTH), tokens(2, LENGTH, seed=5)
    mask = torch.arange(LENGTH) < torch.tensor([[50], [20]])
    with torch.no_grad():
        first = model(token_ids, mask)
        second = model(torch.where(mask, token_ids, other), mask)
    assert torch.allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_row_of_only_padding_has_finite_logits_and_gradients(name: str) -> None:
    model = build(config(name)).train()
    token_ids = tokens(2, LENGTH)
    token_ids[1] = 0
    logits = model(token_ids, token_ids != 0)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_sequence_of_length_one_is_encoded(name: str) -> None:
    limits: dict[str, int] = {"max_length": 1, "num_proxies": 1, "num_landmarks": 1, "num_features": 1}
    assert torch.isfinite(encode(build(config(name, **limits)), tokens(2, 1))).all()


@pytest.mark.parametrize("name", NAMES)
def test_two_documents_are_encoded_separately_and_combined(name: str) -> None:
    model = build(config(name, num_documents=2))
    pair = tokens(2, 2, LENGTH)
    with torch.no_grad():
        logits = model(pair, pair != 0)
        swapped = model(pair.flip(1), pair.flip(1) != 0)
        a, b = (encode(model, pair[:, i]).sum(dim=1) / LENGTH for i in (0, 1))
        expected = model.head(torch.cat([a, b, a * b, a - b], dim=-1))
    assert torch.allclose(logits, expected, atol=1e-5)
    assert not torch.allclose(logits, swapped)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_output_is_close_to_fp32(name: str) -> None:
    model = build(config(name), scale=1.0)
    if name == "reformer":
        pytest.skip(
            "rounding can move a token to another hash bucket, which changes the tokens it attends to"
        )
    token_ids = tokens(3, LENGTH)
    exact = encode(model, token_ids)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encode(model, token_ids)
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).abs().mean() < 0.05
    assert (exact - rounded).abs().max() < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_attention_is_computed_in_fp32_under_autocast(name: str) -> None:
    """The linear projections are bf16; the heads passed to the core are fp32, and autocast is off inside it."""
    seen: list[tuple[torch.dtype, bool]] = []
    model = build(config(name), scale=1.0)
    attention = model.encoder.blocks[0].attention
    core = attention.core

    def spy(attend: Any, *heads: Tensor) -> Any:
        def inner(*inside: Tensor) -> Any:
            seen.extend((head.dtype, torch.is_autocast_enabled("cpu")) for head in inside)
            return attend(*inside)

        return core(inner, *heads)

    attention.core = spy
    with torch.autocast("cpu", torch.bfloat16):
        encode(model, tokens(2, LENGTH))
    assert set(seen) == {(torch.float32, False)}
    seen.clear()
    attention.fp32_core = False
    with torch.autocast("cpu", torch.bfloat16):
        encode(model, tokens(2, LENGTH))
    assert set(seen) == {(torch.bfloat16, True)}


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_follows_cpu(name: str, dtype: torch.dtype) -> None:
    model = build(config(name))
    token_ids = tokens(3, LENGTH)
    token_ids[1, 9:] = 0
    token_ids[2] = 0
    exact = encode(model, token_ids)
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        ours = encode(model.cuda(), token_ids.cuda()).cpu()
    assert (exact - ours).abs().mean() < (1e-4 if dtype == torch.float32 else 0.05)
