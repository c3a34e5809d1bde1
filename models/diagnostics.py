"""Diagnostics of low-rank attention: error of a layer's map against softmax, redundancy and sharpness of its landmarks.

The trainer runs a few validation sequences with Trace.diagnose set. The last column lists the mechanisms.

    map_error             |A - S| / |S|: A the mechanism's map, S = softmax(Q K^T / sqrt(e)) of the same Q and K, both over
                          a sequence's valid tokens; Frobenius norms of each head       all four
    map_error_uniform     |U - S| / |S| for U = 1 / (number of valid tokens): the baseline    all four
    landmark_cosine       mean |cosine| between a head's landmarks: Q~ and K~ (nystromformer, segment means), Q_P and K_P
                          (proxyformer), E K (linformer); the paper's RQ3, per head
    middle_diagonal       mean diagonal of softmax(Q~ K~^T / sqrt(e)), 1 / m if uniform    nystromformer, proxyformer
    proxy_cosine, proxy_rank, token_entropy, proxy_entropy                                 proxyformer (diagnose_proxies)

The map is computed without dropout and without the convolution, which is not part of the approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Columns of the map computed at a time, so that no n x n matrix of a long sequence is stored.
COLUMNS = 512


@torch.no_grad()
def diagnose_map(attend: Callable[[Tensor], Tensor], q: Tensor, k: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """map_error and map_error_uniform, means over sequences and heads.

    Args:
        attend: V -> A V for values V of shape (b, h, n, c), the shape of the result; A is obtained from the identity.
        q, k: (b, h, n, e).
        mask: (b, n), True at valid tokens.
    """
    rows = mask[:, None, :, None]
    num_valid = mask.sum(dim=-1)[:, None, None, None]
    blocks = torch.split(torch.arange(q.shape[-2], device=q.device), COLUMNS)

    def logits(columns: Tensor) -> Tensor:
        scaled: Tensor = q.float() @ k[..., columns, :].float().transpose(-2, -1) * q.shape[-1] ** -0.5
        return scaled.masked_fill(~mask[:, None, None, columns], -math.inf)

    normalizer = torch.stack([logits(block).logsumexp(dim=-1) for block in blocks]).logsumexp(dim=0)[
        ..., None
    ]
    sums = torch.zeros(3, *q.shape[:2], device=q.device)
    for columns in blocks:
        both = rows & mask[:, None, None, columns]
        exact = torch.exp(logits(columns) - normalizer).masked_fill(~both, 0.0)
        identity = F.one_hot(columns, q.shape[-2]).T.to(q.dtype).expand(*q.shape[:2], -1, -1)
        differences = (attend(identity).float() - exact, 1 / num_valid - exact, exact)
        for total, difference in zip(sums, differences, strict=True):
            total += difference.masked_fill(~both, 0.0).square().sum(dim=(-2, -1))
    error, uniform, norm = sums.sqrt()
    present = (num_valid[..., 0, 0] > 0).expand_as(norm)
    return {
        "map_error": (error / norm)[present].mean(),
        "map_error_uniform": (uniform / norm)[present].mean(),
    }


@torch.no_grad()
def diagnose_landmarks(landmarks: Sequence[Tensor]) -> dict[str, Tensor]:
    """landmark_cosine, and middle_diagonal if there are landmarks of both queries and keys; each (b, h, m, e)."""
    if not landmarks:
        return {}
    values = {"landmark_cosine": torch.stack([mean_abs_cosine(each) for each in landmarks]).mean()}
    if len(landmarks) == 2:
        queries, keys = landmarks
        logits = queries.float() @ keys.float().transpose(-2, -1) * queries.shape[-1] ** -0.5
        values["middle_diagonal"] = torch.softmax(logits, dim=-1).diagonal(dim1=-2, dim2=-1).mean()
    return values


@torch.no_grad()
def diagnose_proxies(
    proxies: Tensor, q: Tensor, k: Tensor, q_p: Tensor, k_p: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """Scalars of one layer from its proxies (b or 1, m, d), heads (b, h, ., e) and mask (b, n).

    proxy_cosine: mean |cosine| between different proxies, 0..1.
    proxy_rank: effective rank of the proxies, 1..min(m, d).
    token_entropy: normalised entropy of a token over the proxies (rows of K1), 0 one proxy .. 1 uniform.
    proxy_entropy: normalised entropy of a proxy over the valid tokens (rows of K2), 0 one token .. 1 uniform.
    """
    scale = q.shape[-1] ** -0.5
    reading = softmax_entropy(q @ k_p.transpose(-2, -1) * scale) / math.log(max(k_p.shape[-2], 2))
    logits = q_p @ k.transpose(-2, -1) * scale
    writing = softmax_entropy(logits.masked_fill(~mask[:, None, None, :], torch.finfo(logits.dtype).min))
    num_valid = mask.sum(dim=-1)[:, None, None]
    tokens = mask[:, None, :].expand_as(reading)
    return {
        "proxy_cosine": mean_abs_cosine(proxies),
        "proxy_rank": effective_rank(proxies),
        "token_entropy": (reading * tokens).sum() / tokens.sum().clamp(min=1),
        "proxy_entropy": (writing / num_valid.clamp(min=2).log()).mean(),
    }


def mean_abs_cosine(proxies: Tensor) -> Tensor:
    """Mean |cosine| between different rows, (..., m, d) -> scalar; the paper's measure of redundancy (RQ3).

    A row of zeros, such as the landmark of a segment of padding, counts as cosine 0 to all others.
    """
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
