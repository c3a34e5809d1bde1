"""Sums and means over contiguous segments of a sequence, for landmarks and injected proxies.

Over the padded length, position i of 0..max_length-1 belongs to segment floor(i num_segments / max_length), whatever the
batch's length is. Over the valid length, the r-th of a sequence's L valid tokens (from 0) belongs to segment
floor(r num_segments / L). In both cases, trimming a batch to its longest sequence has no effect.
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
    """index_add over the second-last axis that saves only the index for its backward pass; PyTorch's saves the source."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(index)
        return x.new_zeros(*x.shape[:-2], size, x.shape[-1]).index_add_(-2, index, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return grad.index_select(-2, index), None, None


def padded_segment_means(x: Tensor, mask: Tensor, num_segments: int, max_length: int) -> Tensor:
    """Mean over the valid tokens of each segment of the padded length; 0 for a segment without valid tokens.

    Args:
        x: (b, n, d).
        mask: (b, n), True at valid tokens.
        num_segments: at most max_length.
        max_length: the length that is divided into segments; n <= max_length.
    """
    valid = mask.to(x.dtype)[..., None]
    counts = segment_sums(valid, num_segments, max_length)
    return segment_sums(x * valid, num_segments, max_length) / counts.clamp(min=1)


def valid_segment_means(x: Tensor, mask: Tensor, num_segments: int) -> Tensor:
    """Mean over each segment of a sequence's valid tokens: (b, n, d) and mask (b, n) -> (b, num_segments, d).

    A sequence with fewer valid tokens than segments has empty segments, whose means are 0.
    """
    ranks = mask.cumsum(dim=-1) - 1
    lengths = mask.sum(dim=-1, keepdim=True)
    # Padding is assigned to an additional segment, which is removed.
    segments = torch.where(mask, ranks * num_segments // lengths.clamp(min=1), num_segments)
    rows = torch.arange(x.shape[0], device=x.device)[:, None] * (num_segments + 1) + segments
    size = x.shape[0] * (num_segments + 1)
    sums: Tensor = IndexSums.apply(x.flatten(0, 1), rows.flatten(), size)  # type: ignore[no-untyped-call]
    # Segment s contains the ranks from ceil(s L / m) to ceil((s + 1) L / m) - 1.
    ends = -(-torch.arange(num_segments + 1, device=x.device) * lengths // num_segments)
    counts = ends.diff(dim=-1).clamp(min=1)[..., None]
    return sums.view(x.shape[0], num_segments + 1, -1)[:, :-1] / counts
