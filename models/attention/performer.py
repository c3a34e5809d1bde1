"""Performer attention (Choromanski et al., ICLR-21, arXiv 2009.14794): softmax as a kernel of random features (FAVOR+).

    out_i = phi(q'_i)^T (sum_j phi(k'_j) v_j^T) / phi(q'_i)^T sum_j phi(k'_j),   q' = q e^(-1/4),  k' = k e^(-1/4)

W: r orthogonal rows with the lengths of Gaussian vectors; x' = x e^(-1/4) inside phi.
    softmax:  phi(x) = (exp(W x' - |x'|^2 / 2 - largest) + 0.0001) / sqrt(r)
    relu:     phi(x) = max(W x', 0) + 0.001
`largest` is the largest entry of W x', of a query's own row or over all keys of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from proxytune.models.attention.base import QueryKeyValueAttention
from proxytune.models.config import ModelConfig

RELU_EPSILON = 1e-3
SOFTMAX_EPSILON = 1e-4


class Performer(QueryKeyValueAttention):
    """`performer`: num_features features, performer_kernel softmax or relu; no dropout inside, fp32 under autocast.

    Equivalent to performer-pytorch's FastAttention in the LRA protocol of Nyströmformer. The protocol passes a ReLU but
    does not enable generalized_attention, so FastAttention uses softmax features, which are the default here. `relu` is
    FastAttention with generalized_attention.

    Differences from the paper, as in that code: queries and keys are scaled by e^(-1/4) twice, before phi and in phi, so
    that the kernel estimates exp(q k^T / e) instead of exp(q k^T / sqrt(e)); keys and values at padding, up to max_length,
    are zero vectors that count in the normalizer; W is drawn once and never redrawn.
    """

    low_rank = True
    features: Tensor

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.kernel, self.max_length = config.performer_kernel, config.max_length
        self.register_buffer("features", orthogonal_features(config.num_features, config.head_dim))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        valid = mask[:, None, :, None]
        n, scale = q.shape[-2], q.shape[-1] ** -0.25
        with torch.autocast(q.device.type, enabled=False):
            # An additional zero key represents the padding that was trimmed from the batch.
            keys = F.pad(k.float() * valid * scale, (0, 0, 0, 1))
            if self.kernel == "relu":
                phi_q, phi_k = self.relu_features(q.float() * scale), self.relu_features(keys)
            else:
                phi_q = self.softmax_features(q.float() * scale, over=(-1,))
                phi_k = self.softmax_features(keys, over=(-2, -1))
            phi_k, phi_zero = phi_k[..., :n, :], phi_k[..., n:, :]
            totals = phi_k.sum(dim=-2, keepdim=True) + (self.max_length - n) * phi_zero
            summary = phi_k.transpose(-2, -1) @ (v.float() * valid)  # (b, h, r, e)
            attended = phi_q @ summary / (phi_q @ totals.transpose(-2, -1))
        return attended.to(v.dtype)

    def project(self, x: Tensor) -> Tensor:
        """W x', (b, h, n, e) -> (b, h, n, r)."""
        projected: Tensor = x @ (self.features.float().T * x.shape[-1] ** -0.25)
        return projected

    def relu_features(self, x: Tensor) -> Tensor:
        """phi of relu, (b, h, n, r)."""
        return torch.relu(self.project(x)) + RELU_EPSILON

    def softmax_features(self, x: Tensor, over: tuple[int, ...]) -> Tensor:
        """phi of softmax, (b, h, n, r); the largest entry is taken over the dimensions `over`."""
        projected = self.project(x)
        half_norm = x.square().sum(dim=-1, keepdim=True) / (2 * x.shape[-1] ** 0.5)
        largest = projected.detach().amax(dim=over, keepdim=True)
        features: Tensor = torch.exp(projected - half_norm - largest) + SOFTMAX_EPSILON
        return features / math.sqrt(len(self.features))


def orthogonal_features(num_features: int, dim: int) -> Tensor:
    """(num_features, dim): blocks of `dim` orthogonal directions with the lengths of Gaussian vectors (section 2.4)."""
    num_blocks = -(-num_features // dim)
    directions = torch.linalg.qr(torch.randn(num_blocks, dim, dim)).Q.transpose(-2, -1).reshape(-1, dim)
    lengths = torch.randn(num_features, dim).norm(dim=-1, keepdim=True)
    features: Tensor = directions[:num_features] * lengths
    return features
