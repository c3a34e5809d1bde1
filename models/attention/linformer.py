"""Linformer attention (Wang et al. 2020, arXiv 2006.04768): keys and values projected along the length.

out = softmax(Q (E K)^T / sqrt(e)) (E V),  E trainable, (h, k, max_length)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxytune.models.attention.base import QueryKeyValueAttention
from proxytune.models.rules import require_landmarks

if TYPE_CHECKING:
    from proxytune.models.config import ModelConfig


class Linformer(QueryKeyValueAttention):
    """`linformer`: k = num_features; E is shared by keys and values, each layer has its own; no dropout inside.

    (The public LRA code of Nyströmformer shares E between layers too, Skyformer's does not.)
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.projection = nn.Parameter(torch.empty(config.num_heads, config.num_features, config.max_length))
        nn.init.normal_(self.projection, std=0.02)

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        require_landmarks("num_features", config.num_features, config.max_length)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        valid = mask[:, None, :, None]
        projection = self.projection[..., : k.shape[-2]]
        return F.scaled_dot_product_attention(q, projection @ (k * valid), projection @ (v * valid))
