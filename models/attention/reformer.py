"""Reformer attention (Kitaev et al., ICLR-20, arXiv 2001.04451): tokens attend within buckets of a locality-sensitive hash.

Queries and keys share one projection; in each of num_hashes rounds the tokens are sorted by bucket, cut into chunks of
block_size, and attend to their own chunk and the one before; rounds are weighted by their softmax normalisers (eq. 6).
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from proxytune.models.attention.base import MASKED_LOGIT, Attention, Trace, merge_heads
from proxytune.models.config import ModelConfig
from proxytune.models.dropout import dropout

SELF_LOGIT = MASKED_LOGIT / 10  # a token attends to itself only if there is nothing else


class Reformer(Attention):
    """`reformer`: num_hashes rounds, chunks of block_size tokens.

    The hash is drawn anew for each training pass and fixed for evaluation. Padding sorts behind all tokens, and the
    first chunk has none before it (the public code lets it look at the last), so that padding changes nothing. Hashing
    costs O(n^2 e / block_size), little up to 16k tokens; all else is linear.
    """

    rotations: Tensor

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        del self.key  # shared with query
        self.chunk, self.num_hashes = config.block_size, config.num_hashes
        # Two buckets a chunk of the task's length, as in the paper: chunks hold two buckets on average.
        num_buckets = 2 * math.ceil(config.max_length / config.block_size)
        self.register_buffer("rotations", torch.randn(config.num_hashes, config.head_dim, num_buckets // 2))

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
        mask = F.pad(mask, (0, padding))[:, None, None, :].expand(-1, self.num_heads, self.num_hashes, -1)
        order = self.bucket_order(qk, mask)  # (b, h, r, n)
        values, normalizers = self.attend_chunks(qk, v, mask, order)
        back = order.argsort(dim=-1)
        values = values.gather(-2, back[..., None].expand_as(values))
        weights = torch.softmax(normalizers.gather(-1, back), dim=-2)  # over rounds
        return (weights[..., None] * values).sum(dim=-3)[..., :n, :]

    def bucket_order(self, qk: Tensor, mask: Tensor) -> Tensor:
        """Token numbers sorted by bucket, then position; padding last: (b, h, r, n)."""
        rotations = torch.randn_like(self.rotations) if self.training else self.rotations
        rotated = qk.detach()[:, :, None] @ rotations.float()
        buckets = torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)
        buckets = buckets.masked_fill(~mask, 2 * rotations.shape[-1])
        return buckets.argsort(dim=-1, stable=True)

    def attend_chunks(self, qk: Tensor, v: Tensor, mask: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Each sorted token's values (b, h, r, n, e) and the log of its normaliser (b, h, r, n)."""
        rows = order[..., None].expand(*order.shape, qk.shape[-1])
        queries = self.chunked(
            qk[:, :, None].expand_as(rows).gather(-2, rows), dim=-2
        )  # (b, h, r, chunks, c, e)
        values = with_chunk_before(self.chunked(v[:, :, None].expand_as(rows).gather(-2, rows), dim=-2))
        keys = with_chunk_before(F.normalize(queries, dim=-1))
        positions = self.chunked(order, dim=-1)
        key_positions = with_chunk_before(positions[..., None], fill=-1)[..., 0]
        valid = with_chunk_before(self.chunked(mask.gather(-1, order), dim=-1)[..., None])[..., 0]

        logits = queries @ keys.transpose(-2, -1) / math.sqrt(qk.shape[-1])  # (b, h, r, chunks, c, 2c)
        logits = logits.masked_fill(positions[..., :, None] == key_positions[..., None, :], SELF_LOGIT)
        logits = logits.masked_fill(~valid[..., None, :], MASKED_LOGIT)
        normalizers = logits.logsumexp(dim=-1, keepdim=True)
        weights = dropout(torch.exp(logits - normalizers), self.dropout, self.training)
        return (weights @ values).flatten(-3, -2), normalizers[..., 0].flatten(-2)

    def chunked(self, x: Tensor, dim: int) -> Tensor:
        """Cut axis `dim` into chunks."""
        return x.view(*x.shape[:dim], -1, self.chunk, *x.shape[x.ndim + dim + 1 :])


def with_chunk_before(x: Tensor, fill: int = 0) -> Tensor:
    """(..., chunks, c, e) -> (..., chunks, 2c, e): the chunk before, then its own; `fill` before the first."""
    before = F.pad(x[..., :-1, :, :], (0, 0, 0, 0, 1, 0), value=fill)
    return torch.cat([before, x], dim=-2)
