"""How redundant a layer's proxies are, and how sharply tokens and proxies attend to each other."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Of a batch. The explicit n x m matrices are formed for a look at the mean, which a few sequences give.
MAX_SEQUENCES = 8


@torch.no_grad()
def diagnose(
    proxies: Tensor, q: Tensor, k: Tensor, q_p: Tensor, k_p: Tensor, padding: Tensor
) -> dict[str, Tensor]:
    """Scalars of one layer from its proxies (b or 1, m, d), heads (b, h, ., e) and key bias (b, 1, 1, n).

    proxy_cosine: mean |cosine| between different proxies, 0..1.
    proxy_rank: effective rank of the proxies, 1..min(m, d).
    token_entropy: how evenly a token spreads over the proxies (rows of K1), 0 one proxy .. 1 all alike.
    proxy_entropy: how evenly a proxy spreads over the valid tokens (rows of K2), 0 one token .. 1 all alike.
    """
    some = slice(MAX_SEQUENCES)
    scale = q.shape[-1] ** -0.5
    valid = padding[some] == 0
    reading = softmax_entropy(q[some] @ k_p[some].transpose(-2, -1) * scale) / math.log(max(k_p.shape[-2], 2))
    writing = softmax_entropy(q_p[some] @ k[some].transpose(-2, -1) * scale + padding[some])
    num_valid = valid.sum(dim=-1)  # (b, 1, 1)
    tokens = valid[:, :, 0, :].expand_as(reading)
    return {
        "proxy_cosine": mean_abs_cosine(proxies[some]),
        "proxy_rank": effective_rank(proxies[some]),
        "token_entropy": (reading * tokens).sum() / tokens.sum().clamp(min=1),
        "proxy_entropy": (writing / num_valid.clamp(min=2).log()).mean(),
    }


def mean_abs_cosine(proxies: Tensor) -> Tensor:
    """Mean |cosine| between different rows, (..., m, d) -> scalar; the paper's measure of redundancy (RQ3)."""
    units = F.normalize(proxies.float(), dim=-1)
    cosines = (units @ units.transpose(-2, -1)).abs()
    m = cosines.shape[-1]
    off_diagonal = cosines.sum(dim=(-2, -1)) - cosines.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    mean: Tensor = (off_diagonal / max(m * (m - 1), 1)).mean()
    return mean


def effective_rank(proxies: Tensor) -> Tensor:
    """exp(entropy of the normalised singular values) (Roy and Vetterli 2007), (..., m, d) -> scalar."""
    values = torch.linalg.svdvals(proxies.float())
    shares = values / values.sum(dim=-1, keepdim=True)
    return entropy(shares).exp().mean()


def softmax_entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) over the last axis, in nats."""
    return entropy(torch.softmax(logits.float(), dim=-1))


def entropy(probabilities: Tensor) -> Tensor:
    """-sum p ln p over the last axis."""
    nats: Tensor = torch.special.entr(probabilities).sum(dim=-1)
    return nats
