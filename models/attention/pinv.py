"""Iterative pseudo-inverse of Nyströmformer (arXiv 2102.03902, eq. 13; Razavi et al. 2014)."""

import torch
from torch import Tensor


def iterative_pinv(matrix: Tensor, steps: int = 6) -> Tensor:
    """Approximate the Moore-Penrose inverse of row-stochastic (..., m, m) matrices, in fp32 or better even under autocast.

    Z <- 1/4 Z (13 I - A Z (15 I - A Z (7 I - A Z))), from Z_0 = A^T / (|A|_1 |A|_inf) with the norms of each matrix
    (the public LRA code uses the maximum over a batch, so that a sequence's output depends on the others).
    """
    with torch.autocast(matrix.device.type, enabled=False):
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        norm_1 = matrix.sum(dim=-2).amax(dim=-1)
        norm_inf = matrix.sum(dim=-1).amax(dim=-1)
        inverse = matrix.transpose(-2, -1) / (norm_1 * norm_inf)[..., None, None]
        for _ in range(steps):
            product = matrix @ inverse
            inner = 15 * identity - product @ (7 * identity - product)
            inverse = 0.25 * inverse @ (13 * identity - product @ inner)
        return inverse
