"""Splits a batch into forward passes: examples are sorted by length and each pass is trimmed to its longest example.

Pooling divides by the task's length and every mechanism ignores padding, so no logit depends on the split.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

# On a CPU larger passes are slower: for tensors above 32 MiB glibc maps and unmaps pages in every operation. More than
# 4,096 tokens per pass give no speed-up (Zen, one thread), and smaller passes have less padding.
CPU_TOKENS_PER_PASS = 8192

# Lengths are rounded up to multiples of this to limit the number of distinct shapes.
LENGTH_MULTIPLE = 32


class Batch(Protocol):
    """Input of train_step and evaluate.

    Attributes:
        token_ids: any integer dtype, (b, n) or (b, 2, n).
        mask: bool, the same shape, True at valid tokens.
        labels: int64, (b,).
    """

    @property
    def token_ids(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...


def split_into_passes(batch: Batch, size: int | None, tokens: int | None) -> Iterator[tuple[Tensor, int]]:
    """The row numbers and the padded length of each pass, shortest examples first.

    Args:
        batch: at least one example.
        size: examples per pass; None: limited by `tokens`.
        tokens: maximum of padded tokens per pass, which has at least one example; None: all examples in one pass.
    """
    lengths = example_lengths(batch.mask)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    longest, documents = batch.mask.shape[-1], batch.mask[0].numel() // max(batch.mask.shape[-1], 1)
    padded = [min(longest, -(-lengths[row] // LENGTH_MULTIPLE) * LENGTH_MULTIPLE) for row in order]
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (
            end - start < size
            if size is not None
            else tokens is None or (end + 1 - start) * padded[end] * documents <= tokens
        ):
            end += 1
        yield torch.tensor(order[start:end], device=batch.labels.device), padded[end - 1]
        start = end


def example_lengths(mask: Tensor) -> list[int]:
    """Position of the last valid token in each example's longest document, at least 1: (b, n) or (b, 2, n) -> b numbers."""
    places = torch.arange(1, mask.shape[-1] + 1, device=mask.device)
    lengths: list[int] = (mask * places).flatten(1).amax(dim=-1).clamp(min=1).tolist()
    return lengths
