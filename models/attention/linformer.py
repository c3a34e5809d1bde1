"""Linformer attention (Wang et al. 2020, arXiv 2006.04768): keys and values projected along the length.

out = softmax(Q (E K)^T / sqrt(e)) (E V),  E trainable, (h, k, max_length)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxytune.models.attention.base import QueryKeyValueAttention
from proxytune.models.config import ModelConfig


class Linformer(QueryKeyValueAttention):
    """`linformer`: k = num_features; E is shared by keys and values, not between layers; no dropout inside.

    The public LRA code of Nyströmformer also shares E between layers, Skyformer's does not.
    """

    low_rank = True

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.projection = nn.Parameter(torch.empty(config.num_heads, config.num_features, config.max_length))
        nn.init.normal_(self.projection, std=0.02)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, self.shorten(k, mask), self.shorten(v, mask))

    def shorten(self, x: Tensor, mask: Tensor) -> Tensor:
        """E x over the valid tokens, (b, h, n, e) -> (b, h, k, e)."""
        return self.projection[..., : x.shape[-2]] @ (x * mask[:, None, :, None])

    def landmarks(self, q: Tensor, k: Tensor, mask: Tensor) -> list[Tensor]:
        return [self.shorten(k, mask)]
