"""Contiguous segments of a sequence: what landmarks and injected proxies are means of.

Over the padded length, position i of 0..max_length-1 belongs to segment floor(i num_segments / max_length), whatever the
batch's own length is. Over the valid length, the r-th of a sequence's L valid tokens (from 0) belongs to segment
floor(r num_segments / L). Either way, trimming a batch to its longest sequence changes nothing.
"""

from typing import Any

import torch
from torch import Tensor


def segment_sums(x: Tensor, num_segments: int, max_length: int) -> Tensor:
    """Sum over the tokens of each segment of the padded length: (..., n, d), n <= max_length -> (..., num_segments, d)."""
    segments = torch.arange(x.shape[-2], device=x.device) * num_segments // max_length
    sums: Tensor = IndexSums.apply(x, segments, num_segments)  # type: ignore[no-untyped-call]
    return sums


class IndexSums(torch.autograd.Function):
    """index_add over the last axis but one that keeps only the index for its backward pass; PyTorch's keeps the source."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(index)
        return x.new_zeros(*x.shape[:-2], size, x.shape[-1]).index_add_(-2, index, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return grad.index_select(-2, index), None, None


def padded_segment_means(x: Tensor, mask: Tensor, num_segments: int, max_length: int) -> Tensor:
    """Mean over the valid tokens of each segment of the padded length, 0 where there is none.

    Args:
        x: (b, n, d).
        mask: (b, n), True at valid tokens.
        num_segments: at most max_length.
        max_length: what the segments divide; n <= max_length.
    """
    valid = mask.to(x.dtype)[..., None]
    counts = segment_sums(valid, num_segments, max_length)
    return segment_sums(x * valid, num_segments, max_length) / counts.clamp(min=1)


def valid_segment_means(x: Tensor, mask: Tensor, num_segments: int) -> Tensor:
    """Mean over each segment of a sequence's valid tokens: (b, n, d) and mask (b, n) -> (b, num_segments, d).

    A sequence of fewer valid tokens than segments leaves some of them empty; their means are 0.
    """
    ranks = mask.cumsum(dim=-1) - 1
    lengths = mask.sum(dim=-1, keepdim=True)
    # Padding goes to one more segment, which is cut off.
    segments = torch.where(mask, ranks * num_segments // lengths.clamp(min=1), num_segments)
    rows = torch.arange(x.shape[0], device=x.device)[:, None] * (num_segments + 1) + segments
    size = x.shape[0] * (num_segments + 1)
    sums: Tensor = IndexSums.apply(x.flatten(0, 1), rows.flatten(), size)  # type: ignore[no-untyped-call]
    # Segment s holds the ranks from ceil(s L / m) up to ceil((s + 1) L / m).
    ends = -(-torch.arange(num_segments + 1, device=x.device) * lengths // num_segments)
    counts = ends.diff(dim=-1).clamp(min=1)[..., None]
    return sums.view(x.shape[0], num_segments + 1, -1)[:, :-1] / counts
