"""Contiguous segments of the task's length: what landmarks and injected proxies are means of.

Position i of 0..max_length-1 belongs to segment floor(i num_segments / max_length), whatever the batch's own length is,
so that trimming a batch to its longest sequence changes nothing.
"""

import torch
from torch import Tensor


def segment_sums(x: Tensor, num_segments: int, max_length: int) -> Tensor:
    """Sum over the tokens of each segment: (..., n, d) with n <= max_length -> (..., num_segments, d)."""
    segments = torch.arange(x.shape[-2], device=x.device) * num_segments // max_length
    sums = x.new_zeros(*x.shape[:-2], num_segments, x.shape[-1])
    return sums.index_add(-2, segments, x)


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
