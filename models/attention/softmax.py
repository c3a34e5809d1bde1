"""Softmax attention (Vaswani et al. 2017): one function, three implementations that differ in memory and time.

The paper's ratios are relative to explicit softmax, which stores the n x n matrix. The public LRA code recomputes it in
the backward pass (checkpointed). PyTorch's default is fused and does not store it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from proxytune.models.attention.base import QueryKeyValueAttention, key_bias


class FusedSoftmax(QueryKeyValueAttention):
    """`softmax`: one scaled_dot_product_attention call, memory O(n).

    With attention_dropout > 0 memory is O(n) on CUDA only: PyTorch's fused CPU kernel has no dropout, so the call falls
    back to the explicit matrix.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        p = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=key_bias(mask, q.dtype), dropout_p=p)


class ExplicitSoftmax(QueryKeyValueAttention):
    """`softmax-explicit`: softmax(q k^T / sqrt(e)) v with explicit matrices, as in the public code."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + key_bias(mask, q.dtype)
        weights = F.dropout(torch.softmax(logits, dim=-1), self.dropout, self.training)
        return weights.to(v.dtype) @ v


class CheckpointedSoftmax(ExplicitSoftmax):
    """`softmax-checkpointed`: explicit, but the matrices are recomputed in the backward pass, layer by layer."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        attended: Tensor = checkpoint(super().attend, q, k, v, mask, use_reentrant=False)
        return attended
