"""Dropout with masks that are cheap to draw: drawing PyTorch's masks took a third of a training step on a CPU.

torch draws a CPU mask at 6 ns per element and stores it in four bytes. Here 64 random bits serve four elements, and the
mask is stored in one byte. All draws use the global generator, whose state is set by the Trainer (training.py).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 1 << 16  # probabilities are multiples of 1 / LEVELS


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero elements of `x` with probability `p` in [0, 1) and scale the others by 1 / (1 - p), while training."""
    if not training or p == 0:
        return x
    if x.is_cuda:
        return F.dropout(x, p)
    dropped: Tensor = MaskedScale.apply(x, p)  # type: ignore[no-untyped-call]
    return dropped


def keep_mask(shape: tuple[int, ...], p: float, device: torch.device) -> Tensor:
    """A boolean mask of `shape`, False with probability `p` rounded to 1 / LEVELS."""
    size = math.prod(shape)
    words = torch.randint(-(1 << 63), (1 << 63) - 1, (-(-size // 4),), device=device)
    threshold = _level(p) - LEVELS // 2
    return (words.view(torch.int16)[:size] >= threshold).view(shape)


def scaled_keep(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """keep_mask with the dtype and device of `like`: 1 / (1 - p) at kept elements, else 0."""
    return scaled(keep_mask(shape, p, like.device), p, like.dtype)


def scaled(mask: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """A mask of keep_mask as numbers: 1 / (1 - p), with the rounded p, where it is True, else 0."""
    # The fastest way to multiply by a mask on a CPU: the conversion of int8 is vectorised, that of bool is not.
    return mask.view(torch.int8).to(dtype).mul_(LEVELS / (LEVELS - _level(p)))


def _level(p: float) -> int:
    """The probability in LEVELS, below 1."""
    return min(round(p * LEVELS), LEVELS - 1)


class MaskedScale(torch.autograd.Function):
    """x -> keep_mask * x / (1 - p); saves only the mask for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        mask = keep_mask(tuple(x.shape), p, x.device)
        ctx.save_for_backward(mask)
        ctx.p = p
        return scaled(mask, p, x.dtype).mul_(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return scaled(mask, ctx.p, grad.dtype).mul_(grad), None
