"""Performer attention (Choromanski et al., ICLR-21, arXiv 2009.14794): softmax as a kernel of random features (FAVOR+).

out_i = phi(q_i)^T (sum_j phi(k_j) v_j^T) / phi(q_i)^T sum_j phi(k_j),  x' = x e^(-1/4),  W: k orthogonal rows
relu:     phi(x) = max(W x', 0) + 0.001
softmax:  phi(x) = (exp(W x' - |x'|^2 / 2 - stabilizer) + 0.0001) / sqrt(k), an estimate of exp(q k^T / sqrt(e))
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from proxytune.models.attention.base import MASKED_LOGIT, QueryKeyValueAttention
from proxytune.models.config import ModelConfig

RELU_EPSILON = 1e-3
SOFTMAX_EPSILON = 1e-4


class Performer(QueryKeyValueAttention):
    """`performer`: num_features features, performer_kernel relu (as the LRA protocol) or softmax; no dropout inside.

    W is drawn once with the weights and kept. The core runs in fp32 even under autocast.
    """

    low_rank = True
    features: Tensor

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.kernel = config.performer_kernel
        self.register_buffer("features", orthogonal_features(config.num_features, config.head_dim))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        valid = mask[:, None, :, None]
        with torch.autocast(q.device.type, enabled=False):
            if self.kernel == "relu":
                phi_q, phi_k = self.relu_features(q), self.relu_features(k)
            else:
                phi_q = self.softmax_features(q, valid, stabilize=(-1,))
                phi_k = self.softmax_features(k, valid, stabilize=(-2, -1))
            phi_k = phi_k * valid
            summary = phi_k.transpose(-2, -1) @ v.float()  # (b, h, k, e)
            # At least epsilon where any token is valid; 1 where none is, so that the row is 0 and not NaN.
            normalizer = phi_q @ phi_k.sum(dim=-2)[..., None]
            attended = phi_q @ summary / normalizer.masked_fill(normalizer == 0, 1.0)
        return attended.to(v.dtype)

    def project(self, x: Tensor) -> Tensor:
        """W x', (b, h, n, e) -> (b, h, n, k)."""
        projected: Tensor = x.float() @ (self.features.float().T * x.shape[-1] ** -0.25)
        return projected

    def relu_features(self, x: Tensor) -> Tensor:
        """phi of relu, (b, h, n, k)."""
        features: Tensor = torch.relu(self.project(x)) + RELU_EPSILON
        return features

    def softmax_features(self, x: Tensor, valid: Tensor, stabilize: tuple[int, ...]) -> Tensor:
        """phi of softmax, (b, h, n, k); the largest value over `stabilize` is taken out and cancels in the quotient."""
        projected = self.project(x)
        half_norm = x.float().square().sum(dim=-1, keepdim=True) / (2 * x.shape[-1] ** 0.5)
        largest: Tensor = (
            projected.detach().masked_fill(~valid, MASKED_LOGIT).amax(dim=stabilize, keepdim=True)
        )
        exponents: Tensor = (projected - half_norm - largest).masked_fill(~valid, MASKED_LOGIT)
        return (torch.exp(exponents) + SOFTMAX_EPSILON) / math.sqrt(len(self.features))


def orthogonal_features(num_features: int, dim: int) -> Tensor:
    """(num_features, dim): blocks of `dim` orthogonal directions with the lengths of Gaussian vectors (section 2.4)."""
    num_blocks = -(-num_features // dim)
    directions = torch.linalg.qr(torch.randn(num_blocks, dim, dim)).Q.transpose(-2, -1).reshape(-1, dim)
    lengths = torch.randn(num_features, dim).norm(dim=-1, keepdim=True)
    features: Tensor = directions[:num_features] * lengths
    return features
