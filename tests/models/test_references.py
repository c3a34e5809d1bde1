"""The other mechanisms against independent implementations: Hugging Face, or a direct implementation of the definition."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxytune.models.attention import MECHANISMS, Trace
from proxytune.models.attention.base import Attention, merge_heads
from proxytune.models.attention.bigbird import BigBird, draw_neighbours
from proxytune.models.attention.performer import Performer, orthogonal_features
from proxytune.models.config import ModelConfig

N, D, E = 64, 32, 16


def build(name: str, n: int = N, **changes: Any) -> Attention:
    config = ModelConfig(
        vocab_size=16,
        max_length=n,
        num_classes=3,
        embedding_dim=D,
        attention=name,
        **({"num_proxies": 1} | changes),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = MECHANISMS[name](config, 0)
        with torch.no_grad():
            for parameter in attention.parameters():
                parameter.mul_(2)
        return attention.eval()


def inputs(n: int = N, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, n, D, generator=generator)
    return x, torch.arange(n) < torch.tensor([[n], [n // 2], [n // 3]])[:batch]


def masked_softmax_attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    logits = q @ k.mT / math.sqrt(q.shape[-1])
    return torch.softmax(logits.masked_fill(~allowed, -1e9), dim=-1) @ v


def heads(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(
        attention.split_heads(project(x)) for project in (attention.query, attention.key, attention.value)
    )


@pytest.mark.parametrize("conv_kernel_size", [0, 35])
@pytest.mark.parametrize("num_landmarks", [8, 32])
@pytest.mark.parametrize(("num_heads", "batch", "initial"), [(1, 1, "original"), (2, 3, "exact")])
def test_nystromformer_agrees_with_hugging_face(
    num_landmarks: int, conv_kernel_size: int, num_heads: int, batch: int, initial: str
) -> None:
    """Hugging Face's "original" pseudo-inverse scales by one norm per batch, "exact" and ours by one norm per matrix."""
    from transformers import NystromformerConfig
    from transformers.models.nystromformer.modeling_nystromformer import NystromformerSelfAttention

    ours = build(
        "nystromformer", num_landmarks=num_landmarks, conv_kernel_size=conv_kernel_size, num_heads=num_heads
    )
    theirs = NystromformerSelfAttention(
        NystromformerConfig(
            hidden_size=D,
            num_attention_heads=num_heads,
            num_landmarks=num_landmarks,
            segment_means_seq_len=N,
            conv_kernel_size=35,
        )
    ).eval()
    theirs.init_option = initial
    for mine, other in ((ours.query, theirs.query), (ours.key, theirs.key), (ours.value, theirs.value)):
        other.load_state_dict(mine.state_dict())
    if conv_kernel_size:
        theirs.conv.load_state_dict(ours.conv.conv.state_dict())
    else:
        theirs.conv_kernel_size = None
    x, _ = inputs(batch=batch)
    mask = torch.ones(batch, N, dtype=torch.bool)  # Hugging Face does not mask queries and keys at padding
    with torch.no_grad():
        ours.output = nn.Identity()
        error = (ours(x, mask, Trace()) - theirs(x)[0]).abs()
    print(f"Nystroemformer against transformers: max error {error.max():.1e}, mean {error.mean():.1e}")
    assert error.max() < 1e-5


@pytest.mark.parametrize("name", ["softmax", "softmax-explicit", "softmax-checkpointed"])
def test_softmax_agrees_with_the_definition(name: str) -> None:
    attention = build(name)
    x, mask = inputs()
    expected = attention.output(
        merge_heads(masked_softmax_attention(*heads(attention, x), mask[:, None, None, :]))
    )
    error = (attention(x, mask, Trace()) - expected).abs()
    assert error.max() < 1e-5


def test_checkpointing_keeps_gradients_and_dropout() -> None:
    x, mask = inputs()
    gradients = []
    for name in ("softmax-explicit", "softmax-checkpointed"):
        attention = build(name).train()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            attention(x, mask, Trace()).sum().backward()
        gradients.append(attention.query.weight.grad)
    assert torch.allclose(*gradients, atol=1e-6)


def test_linformer_agrees_with_the_definition() -> None:
    attention = build("linformer", num_features=8)
    x, mask = inputs()
    q, k, v = heads(attention, x)
    k, v = (t.masked_fill(~mask[:, None, :, None], 0) for t in (k, v))
    projected = [torch.einsum("hkn,bhne->bhke", attention.projection, t) for t in (k, v)]
    expected = attention.output(merge_heads(masked_softmax_attention(q, *projected, torch.tensor(True))))
    assert torch.allclose(attention(x, mask, Trace()), expected, atol=1e-5)


def test_performer_approaches_softmax_with_more_features() -> None:
    """exp(q k^T / e): the public code scales queries and keys twice."""
    x, _ = inputs()
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    errors = []
    for num_features in (8, 64):
        attention = build("performer", num_features=num_features)
        assert isinstance(attention, Performer)
        q, k, v = heads(attention, x)
        exact = masked_softmax_attention(q / E**0.5, k, v, torch.tensor(True))
        total = torch.zeros(())
        for seed in range(30):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                attention.features = orthogonal_features(num_features, E)
            total += (attention.attend(q, k, v, mask) - exact).square().mean()
        errors.append((total / 30).item() / exact.square().mean().item())
    assert errors[1] < errors[0] / 2
    assert errors[1] < 0.1


def test_random_features_are_orthogonal_with_gaussian_norms() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = orthogonal_features(1600, E)
    for block in features.view(-1, E, E)[:5]:
        directions = nn.functional.normalize(block, dim=-1)
        assert torch.allclose(directions @ directions.T, torch.eye(E), atol=1e-5)
    assert features.square().sum(dim=-1).mean().item() == pytest.approx(E, rel=0.05)


def test_bigbird_agrees_with_a_dense_mask() -> None:
    block, n = 8, 60
    attention = build("bigbird", n=n, block_size=block, num_random_blocks=2)
    assert isinstance(attention, BigBird)
    num_blocks = math.ceil(n / block)
    allowed = torch.zeros(2, n, n, dtype=torch.bool)
    for h, i, j in itertools.product(range(2), range(n), range(n)):
        row, column = i // block, j // block
        in_window = abs(row - column) <= 1
        ends = {0, num_blocks - 1}
        neighbors = attention.neighbours[h, row].tolist()
        allowed[h, i, j] = in_window or row in ends or column in ends or column in neighbors
    assert not allowed.all()
    x, mask = inputs(n)
    expected = masked_softmax_attention(*heads(attention, x), allowed & mask[:, None, None, :])
    assert torch.allclose(attention(x, mask, Trace()), attention.output(merge_heads(expected)), atol=1e-5)


@pytest.mark.parametrize(("num_blocks", "num_random"), [(1, 3), (2, 3), (3, 3), (5, 2), (64, 3), (64, 0)])
def test_bigbird_neighbors_contain_no_duplicate_block(num_blocks: int, num_random: int) -> None:
    for i, row in enumerate(draw_neighbours(num_blocks, num_random).tolist()):
        present = [j for j in row if j >= 0]
        assert len(present) == len(set(present))
        always = {j for j in (i - 1, i, i + 1, 0, num_blocks - 1) if 0 <= j < num_blocks}
        assert always <= set(present)
        assert len(present) == min(num_blocks, len(always) + num_random)
