"""Nyströmformer attention (Xiong et al., AAAI-21, arXiv 2102.03902, eq. 15-17): segment means as landmarks.

Q~, K~ = means of Q and K over m segments
out = softmax(Q K~^T / sqrt(e)) pinv(softmax(Q~ K~^T / sqrt(e))) (softmax(Q~ K^T / sqrt(e)) V) [+ DConv(V)]
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from proxytune.models.attention.base import QueryKeyValueAttention, key_bias
from proxytune.models.attention.convolution import ValueConvolution
from proxytune.models.attention.pinv import iterative_pinv
from proxytune.models.attention.segments import segment_sums
from proxytune.models.config import ModelConfig


class Nystromformer(QueryKeyValueAttention):
    """`nystromformer`: num_landmarks landmarks, 6 steps of the iterative pseudo-inverse, no dropout inside.

    As in the public LRA code, queries and keys are zero at padding and count in the means, so a segment of padding gives a
    zero landmark. conv_kernel_size > 0 enables the convolution; the public code uses 35.
    """

    low_rank = True
    segment_sizes: Tensor

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.num_landmarks, self.max_length = config.num_landmarks, config.max_length
        sizes = segment_sums(torch.ones(config.max_length, 1), config.num_landmarks, config.max_length)
        self.register_buffer("segment_sizes", sizes, persistent=False)
        self.conv = ValueConvolution(config) if config.conv_kernel_size else None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        valid = mask[:, None, :, None]
        q, k = q * valid, k * valid
        q_landmarks, k_landmarks = self.segment_means(q), self.segment_means(k)
        middle = torch.softmax(q_landmarks @ k_landmarks.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1)
        # The fused calls do not store the two n x m factors.
        summary = F.scaled_dot_product_attention(q_landmarks, k, v, attn_mask=key_bias(mask, q.dtype))
        return F.scaled_dot_product_attention(q, k_landmarks, iterative_pinv(middle).to(v.dtype) @ summary)

    def landmarks(self, q: Tensor, k: Tensor, mask: Tensor) -> list[Tensor]:
        return [self.segment_means(x * mask[:, None, :, None]) for x in (q, k)]

    def segment_means(self, x: Tensor) -> Tensor:
        """(b, h, n, e) -> (b, h, m, e)."""
        return (segment_sums(x, self.num_landmarks, self.max_length) / self.segment_sizes).to(x.dtype)
