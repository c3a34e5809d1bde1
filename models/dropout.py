"""Dropout masks, drawn on the global generator that the Trainer lends (see training.py)."""

from __future__ import annotations

import torch
from torch import Tensor


def scaled_keep(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """A mask of `shape`: 0 with probability `p`, otherwise 1 / (1 - p); dtype and device of `like`."""
    return torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(1 - p).div_(1 - p)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero elements of `x` with probability `p` and scale the others by 1 / (1 - p), while training."""
    if not training or p == 0:
        return x
    # native_dropout keeps a mask of one byte an element; F.dropout on the CPU keeps four.
    dropped: Tensor = torch.native_dropout(x, p, True)[0]
    return dropped
