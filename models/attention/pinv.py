"""Iterative pseudo-inverse of Nyströmformer (arXiv 2102.03902, eq. 13; Razavi et al. 2014)."""

import torch
from torch import Tensor

IDENTITY_FACTORS = (7, 15, 13)


def iterative_pinv(matrix: Tensor, steps: int = 6) -> Tensor:
    """Approximate the Moore-Penrose inverse of row-stochastic (..., m, m) matrices.

    Z <- 1/4 Z (13 I - A Z (15 I - A Z (7 I - A Z))), from Z_0 = A^T / (|A|_1 |A|_inf) with the norms of each matrix
    (the public code takes the largest of the whole batch, which makes a sequence's output depend on its neighbours).
    """
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    columns = matrix.sum(dim=-2).amax(dim=-1)
    rows = matrix.sum(dim=-1).amax(dim=-1)
    inverse = matrix.transpose(-2, -1) / (columns * rows)[..., None, None]
    for _ in range(steps):
        product = matrix @ inverse
        polynomial = 15 * identity - product @ (7 * identity - product)
        inverse = 0.25 * inverse @ (13 * identity - product @ polynomial)
    return inverse
