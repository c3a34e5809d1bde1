"""Reformer attention (Kitaev et al., ICLR-20, arXiv 2001.04451): tokens attend within buckets of a locality-sensitive hash.

Queries and keys share one projection, key_j = q_j / |q_j|, logit_ij = q_i key_j. In each of num_hashes rounds the tokens
are sorted by bucket, cut into chunks of block_size, and attend to their own chunk and the one before; rounds are weighted
by their softmax normalizers (eq. 6).
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from proxytune.models.attention.base import MASKED_LOGIT, Attention, Trace, merge_heads
from proxytune.models.config import ModelConfig

SELF_LOGIT = MASKED_LOGIT / 10  # a token attends to itself only if there is no other valid token
NORM_EPSILON = 1e-6


class Reformer(Attention):
    """`reformer`: num_hashes rounds, chunks of block_size tokens; no dropout inside.

    Equivalent to Hugging Face's LSHSelfAttention, which the LRA protocol of Nyströmformer uses: no bias in the two
    projections, rotations drawn for each head, and no division of the logits by sqrt(e) (the paper divides). The chunk
    before a round's first chunk is the last chunk of the previous round, for the first round that of the last.

    Differences from that code: the hash is redrawn in each training pass but fixed for evaluation; "the last chunk" is the
    last one with valid tokens, so that padding has no effect (there it may consist of padding); buckets are never
    factorized (there from 8,192 tokens with chunks of 64). Hashing costs O(n^2 e / block_size), everything else is linear
    in n.
    """

    rotations: Tensor

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        del self.key  # shared with query
        for project in (self.query, self.value):
            project.register_parameter("bias", None)
        self.chunk, self.num_hashes = config.block_size, config.num_hashes
        # Two buckets per chunk of the task's length, rounded down to a power of two.
        num_buckets = 1 << max(1, (2 * (config.max_length // config.block_size)).bit_length() - 1)
        shape = (config.num_heads, config.head_dim, config.num_hashes, num_buckets // 2)
        self.register_buffer("rotations", torch.randn(shape))

    def forward(self, x: Tensor, mask: Tensor, trace: Trace) -> Tensor:
        qk, v = self.split_heads(self.query(x)), self.split_heads(self.value(x))
        attended = self.core(partial(self.attend_buckets, mask=mask), qk, v)
        output: Tensor = self.output(merge_heads(attended))
        return output

    def attend_buckets(self, qk: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """(b, h, n, e) -> (b, h, n, e)."""
        n = qk.shape[-2]
        padding = -n % self.chunk
        qk, v = F.pad(qk, (0, 0, 0, padding)), F.pad(v, (0, 0, 0, padding))
        mask = F.pad(mask, (0, padding))
        order = self.bucket_order(qk, mask)  # (b, h, r, n)
        values, normalizers = self.attend_chunks(qk, v, mask, order)
        back = order.argsort(dim=-1)
        values = values.gather(-2, back[..., None].expand_as(values))
        weights = torch.softmax(normalizers.gather(-1, back), dim=-2)  # over rounds
        return (weights[..., None] * values).sum(dim=-3)[..., :n, :]

    def bucket_order(self, qk: Tensor, mask: Tensor) -> Tensor:
        """Token numbers sorted by bucket, then position; padding last: (b, h, r, n)."""
        rotations = torch.randn_like(self.rotations) if self.training else self.rotations
        rotated = torch.einsum("bhne,hert->bhrnt", qk.detach(), rotations.float())
        buckets = torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)
        buckets = buckets.masked_fill(~mask[:, None, None, :], 2 * rotations.shape[-1])
        return buckets.argsort(dim=-1, stable=True)

    def attend_chunks(self, qk: Tensor, v: Tensor, mask: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Each sorted token's values (b, h, r, n, e) and the log of its normalizer (b, h, r, n)."""
        rows = order[..., None].expand(*order.shape, qk.shape[-1])
        queries, values = (
            self.chunked(x[:, :, None].expand_as(rows).gather(-2, rows)) for x in (qk, v)
        )  # (b, h, r, chunks, c, e)
        keys = queries * torch.rsqrt(queries.square().mean(dim=-1, keepdim=True) + NORM_EPSILON)
        keys = keys / queries.shape[-1] ** 0.5  # of unit length
        positions = self.chunked(order[..., None])
        valid = self.chunked(mask[:, None, None, :].expand_as(order).gather(-1, order)[..., None])

        last = (mask.sum(dim=-1) - 1).clamp(min=0) // self.chunk  # (b,), last chunk with valid tokens
        several = (last > 0)[:, None, None, None, None, None]  # a single chunk has no previous one
        valid = torch.cat([chunk_before(valid, last) & several, valid], dim=-2)
        keys, values, key_positions = (
            torch.cat([chunk_before(x, last), x], dim=-2) for x in (keys, values, positions)
        )

        logits = queries @ keys.transpose(-2, -1)  # (b, h, r, chunks, c, 2c)
        logits = logits.masked_fill(positions == key_positions.transpose(-2, -1), SELF_LOGIT)
        logits = logits.masked_fill(~valid.transpose(-2, -1), MASKED_LOGIT)
        normalizers = logits.logsumexp(dim=-1, keepdim=True)
        return (torch.exp(logits - normalizers) @ values).flatten(-3, -2), normalizers[..., 0].flatten(-2)

    def chunked(self, x: Tensor) -> Tensor:
        """(b, h, r, n, e) -> (b, h, r, chunks, c, e)."""
        return x.view(*x.shape[:3], -1, self.chunk, x.shape[-1])


def chunk_before(x: Tensor, last: Tensor) -> Tensor:
    """(b, h, r, chunks, c, e) -> the same shape, with every chunk replaced by the previous one.

    The first chunk of a round is replaced by chunk `last` (b,) of the previous round, in the first round of the last round.
    """
    index = last[:, None, None, None, None, None].expand(*x.shape[:3], 1, *x.shape[4:])
    return torch.cat([x.gather(3, index).roll(1, dims=2), x[:, :, :, :-1]], dim=3)
