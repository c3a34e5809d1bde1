"""Contiguous segments of the task's length: what landmarks and injected proxies are means of.

Position i of 0..max_length-1 belongs to segment floor(i num_segments / max_length), whatever the batch's own length is,
so that trimming a batch to its longest sequence changes nothing.
"""

from typing import Any

import torch
from torch import Tensor


def segment_sums(x: Tensor, num_segments: int, max_length: int) -> Tensor:
    """Sum over the tokens of each segment: (..., n, d) with n <= max_length -> (..., num_segments, d)."""
    sums: Tensor = SegmentSums.apply(x, num_segments, max_length)  # type: ignore[no-untyped-call]
    return sums


class SegmentSums(torch.autograd.Function):
    """index_add that keeps only the index for its backward pass; PyTorch's keeps the source, another (b, n, d)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, num_segments: int, max_length: int) -> Tensor:
        segments = torch.arange(x.shape[-2], device=x.device) * num_segments // max_length
        ctx.save_for_backward(segments)
        return x.new_zeros(*x.shape[:-2], num_segments, x.shape[-1]).index_add_(-2, segments, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (segments,) = ctx.saved_tensors
        return grad.index_select(-2, segments), None, None


def segment_means(x: Tensor, mask: Tensor, num_segments: int, max_length: int) -> Tensor:
    """Mean over the valid tokens of each segment, 0 where there is none.

    Args:
        x: (b, n, d).
        mask: (b, n), True at valid tokens.
        num_segments: at most max_length.
        max_length: what the segments divide; n <= max_length.
    """
    valid = mask.to(x.dtype)[..., None]
    counts = segment_sums(valid, num_segments, max_length)
    return segment_sums(x * valid, num_segments, max_length) / counts.clamp(min=1)
