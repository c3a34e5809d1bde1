"""Performer, Reformer and BigBird against the libraries that the published LRA comparisons used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxytune.models.attention import Trace
from proxytune.models.attention.base import Attention, merge_heads
from proxytune.models.attention.bigbird import BigBird
from proxytune.models.attention.performer import Performer
from proxytune.models.attention.reformer import Reformer
from tests.models.test_references import D, E, build, heads, inputs

TOLERANCE = 1e-5


def largest_difference(name: str, ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference; printed with the largest value."""
    error = (ours - theirs).abs().max().item()
    print(f"{name}: largest difference {error:.1e}, largest value {theirs.abs().max().item():.2f}")
    return error


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # in the library's imports
@pytest.mark.parametrize("kernel", ["softmax", "relu"])
@pytest.mark.parametrize("num_features", [24, 128])
@pytest.mark.parametrize("trimmed", [False, True])
def test_performer_agrees_with_performer_pytorch(kernel: str, num_features: int, trimmed: bool) -> None:
    """FastAttention as in the LRA code: queries and keys are scaled first; keys and values at padding are zero."""
    from performer_pytorch import FastAttention

    n = 64
    ours = build("performer", num_features=num_features, performer_kernel=kernel)
    assert isinstance(ours, Performer)
    theirs = FastAttention(
        dim_heads=E,
        nb_features=num_features,
        causal=False,
        generalized_attention=kernel == "relu",
        kernel_fn=nn.ReLU(),
    )
    theirs.projection_matrix.copy_(ours.features)
    x, mask = inputs(n)
    if trimmed:
        x, mask = x[1:], mask[1:]
    q, k, v = heads(ours, x)
    valid = mask[:, None, :, None]
    expected = theirs(q * E**-0.25, k * E**-0.25 * valid, v * valid)
    length = n // 2 if trimmed else n
    ours.output = nn.Identity()
    with torch.no_grad():
        actual = ours(x[:, :length], mask[:, :length], Trace())
    assert largest_difference("Performer", actual, merge_heads(expected)[:, :length]) < TOLERANCE


def hugging_face_reformer(ours: Attention, n: int, chunk: int, num_hashes: int, seed: int) -> nn.Module:
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    theirs = LSHSelfAttention(
        ReformerConfig(
            hidden_size=D,
            attention_head_size=E,
            num_attention_heads=D // E,
            num_hashes=num_hashes,
            lsh_attn_chunk_length=chunk,
            max_position_embeddings=n,
            is_decoder=False,
            hash_seed=seed,
        )
    )
    theirs.query_key.load_state_dict(ours.query.state_dict())
    theirs.value.load_state_dict(ours.value.state_dict())
    return theirs


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("n", "chunk", "num_hashes"), [(64, 8, 1), (64, 8, 2), (96, 16, 4), (128, 64, 2), (64, 64, 2)]
)
def test_reformer_agrees_with_hugging_face(n: int, chunk: int, num_hashes: int, seed: int) -> None:
    """In training mode both draw the same rotations from the seed. Outputs and gradients agree."""
    ours = build("reformer", n=n, block_size=chunk, num_hashes=num_hashes).train()
    assert isinstance(ours, Reformer)
    theirs = hugging_face_reformer(ours, n, chunk, num_hashes, seed).train()
    ours.output = nn.Identity()
    x, _ = inputs(n)
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        actual = ours(x, mask, Trace())
        expected = theirs(x, attention_mask=mask).hidden_states
    assert largest_difference("Reformer", actual, expected) < TOLERANCE
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(9))
    for output in (actual, expected):
        (output * weights).sum().backward()
    assert ours.query.weight.grad is not None
    scale = theirs.query_key.weight.grad.abs().max()
    assert (ours.query.weight.grad - theirs.query_key.weight.grad).abs().max() < TOLERANCE * scale


def test_reformer_has_no_biases_and_a_shared_query_key_projection() -> None:
    names = {name for name, _ in build("reformer").named_parameters()}
    assert names == {"query.weight", "value.weight", "output.weight", "output.bias"}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("n", "num_random_blocks"), [(64, 2), (96, 3), (512, 3)])
def test_bigbird_agrees_with_hugging_face(n: int, num_random_blocks: int, padded: bool) -> None:
    """Block-sparse attention in training mode, with the random blocks of our model."""
    from transformers import BigBirdConfig, BigBirdModel
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

    block = 8
    ours = build("bigbird", n=n, block_size=block, num_random_blocks=num_random_blocks).train()
    assert isinstance(ours, BigBird)

    class WithOurBlocks(BigBirdBlockSparseAttention):
        def _bigbird_block_rand_mask_with_head(self, **_: Any) -> Any:
            return list(ours.neighbours[:, 1:-1, -num_random_blocks:].numpy())

    theirs = WithOurBlocks(
        BigBirdConfig(
            hidden_size=D,
            num_attention_heads=D // E,
            block_size=block,
            num_random_blocks=num_random_blocks,
            max_position_embeddings=n,
            use_bias=True,
        )
    ).train()
    for mine, other in ((ours.query, theirs.query), (ours.key, theirs.key), (ours.value, theirs.value)):
        other.load_state_dict(mine.state_dict())
    x, mask = inputs(n)
    if not padded:
        mask = torch.ones_like(mask)
    blocked, band, rows, columns = BigBirdModel.create_masks_for_block_sparse_attn(mask.float(), block)
    ours.output = nn.Identity()
    with torch.no_grad():
        actual = ours(x, mask, Trace())
        expected = theirs(x, band, rows, columns, blocked, blocked)[0]
    assert largest_difference("BigBird", actual[mask], expected[mask]) < TOLERANCE


def test_bigbird_draws_random_blocks_per_head() -> None:
    attention = build("bigbird", n=512, block_size=8)
    assert isinstance(attention, BigBird)
    first, second = attention.neighbours
    assert not torch.equal(first, second)
    assert torch.equal(first[:, :5], second[:, :5])  # the window and the two end blocks
