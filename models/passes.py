"""A batch as forward passes: examples sorted by length, each pass cut to its own longest, so that padding costs little.

Pooling divides by the task's length and every mechanism ignores padding, so no logit depends on how a batch is cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

# On a CPU, more tokens at a time run slower: beyond 32 MiB a tensor, glibc maps and unmaps fresh pages for every operation.
# From 4,096 tokens a pass on, none is faster (Zen, one thread); the fewer, the closer a pass is to its own longest example.
CPU_TOKENS_PER_PASS = 8192

# Lengths are rounded up to multiples of this, so that kernels meet few shapes.
LENGTH_MULTIPLE = 32


class Batch(Protocol):
    """What train_step and evaluate take.

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
    """The examples of each pass, shortest first, as row numbers of the batch and the length that holds them all.

    Args:
        batch: at least one example.
        size: examples a pass; None: by `tokens`.
        tokens: at most so many padded tokens a pass, but at least one example; None: all examples in one pass.
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
    """Tokens up to the last valid one of each example's longest document, at least 1: (b, n) or (b, 2, n) -> b numbers."""
    places = torch.arange(1, mask.shape[-1] + 1, device=mask.device)
    lengths: list[int] = (mask * places).flatten(1).amax(dim=-1).clamp(min=1).tolist()
    return lengths
