"""Contrastive losses over proxies against closed forms and loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from proxytune.models.attention import Trace
from proxytune.models.attention.proxyformer import Proxyformer
from proxytune.models.config import ModelConfig
from proxytune.models.contrastive import info_nce, kernel_logits_loss
from proxytune.models.diagnostics import effective_rank, mean_abs_cosine


def proxies_with_cosine(c: float, m: int = 128) -> torch.Tensor:
    """m unit vectors with pairwise cosine c."""
    gram = torch.full((m, m), c, dtype=torch.float64)
    return torch.linalg.cholesky(gram.fill_diagonal_(1.0) + 1e-12 * torch.eye(m)).float()


@pytest.mark.parametrize(
    ("c", "loss"), [(0.0, 8e-5), (0.3, 0.006), (0.5, 0.096), (0.66, 0.69), (0.8, 2.1), (0.9, 3.4)]
)
def test_info_nce_of_equal_cosines_at_the_paper_temperature(c: float, loss: float) -> None:
    proxies = proxies_with_cosine(c)
    exact = math.log(1 + 127 * math.exp((c - 1) / 0.07))
    assert info_nce(proxies, proxies, 0.07).item() == pytest.approx(exact, rel=1e-2, abs=1e-6)
    assert exact == pytest.approx(loss, rel=0.05)
    assert mean_abs_cosine(proxies).item() == pytest.approx(c, abs=1e-5)


def test_info_nce_of_identical_proxies_is_ln_m() -> None:
    proxies = torch.ones(2, 16, 8) * torch.rand(2, 16, 1)
    for temperature in (0.02, 0.07, 1.0):
        assert info_nce(proxies, proxies, temperature).item() == pytest.approx(math.log(16), rel=1e-5)
    assert effective_rank(proxies).item() == pytest.approx(1.0, abs=1e-3)
    assert effective_rank(torch.eye(8)).item() == pytest.approx(8.0)


def test_info_nce_of_two_views_agrees_with_a_loop() -> None:
    anchors, views = torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    terms = []
    for b in range(3):
        cosines = torch.nn.functional.cosine_similarity(anchors[b, :, None], views[b, None], dim=-1) / 0.2
        terms += [
            -math.log(math.exp(row[i]) / sum(math.exp(x) for x in row)) for i, row in enumerate(cosines)
        ]
    assert info_nce(anchors, views, 0.2).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def build(contrastive: str, **changes: Any) -> tuple[Proxyformer, torch.Tensor, Trace]:
    """A layer in training mode, its injected proxies for two sequences, and the trace of its forward pass."""
    config = ModelConfig(
        vocab_size=16, max_length=24, num_classes=3, num_proxies=6, embedding_dim=16, dropout=0.0,
        contrastive=contrastive, **changes,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 24, 16, generator=generator)
    mask = torch.arange(24) < torch.tensor([[24], [9]])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = Proxyformer(config, 0).train()
    trace = Trace()
    attention(x, mask, trace)
    return attention, attention.inject_input(x, mask, Trace()), trace


@pytest.mark.parametrize("own_projections", [False, True])
@pytest.mark.parametrize("contrastive", ["kernel", "kernel-logits"])
def test_query_key_contrast_agrees_with_a_loop(contrastive: str, own_projections: bool) -> None:
    attention, proxies, trace = build(
        contrastive, own_proxy_projections=own_projections, contrastive_temperature=0.2
    )
    maps = (
        (attention.proxy_query, attention.proxy_key) if own_projections else (attention.query, attention.key)
    )
    queries, keys = (project(proxies).detach() for project in maps)
    terms = []
    for b, head, i in itertools.product(range(2), range(2), range(6)):
        part = slice(head * 8, head * 8 + 8)
        row = []
        for j in range(6):
            q, k = queries[b, i, part], keys[b, j, part]
            product = float(q @ k)
            cosine = product / float(q.norm() * k.norm())
            row.append(cosine / 0.2 if contrastive == "kernel" else product / math.sqrt(8))
        terms.append(math.log(sum(math.exp(value) for value in row)) - row[i])
    (loss,) = trace.losses
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    loss.backward()
    assert attention.proxies.grad.abs().max() > 0
    assert all(project.weight.grad.abs().max() > 0 for project in maps)


def test_kernel_logits_loss_is_log_of_the_middle_kernel_diagonal() -> None:
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    middle = torch.softmax(q @ k.mT / 2, dim=-1)
    expected = -middle.diagonal(dim1=-2, dim2=-1).log().mean()
    assert kernel_logits_loss(q, k).item() == pytest.approx(expected.item(), rel=1e-5)


def test_info_nce_is_computed_in_fp32_under_autocast() -> None:
    proxies = torch.randn(2, 16, 8)
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(proxies, proxies, 0.07)
    assert loss.dtype == torch.float32
    assert loss == info_nce(proxies, proxies, 0.07)


def test_info_nce_gradient_separates_duplicates() -> None:
    proxies = (torch.ones(16, 32) + 0.1 * torch.randn(16, 32)).requires_grad_()
    before = mean_abs_cosine(proxies).item()
    optimizer = torch.optim.Adam([proxies], lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        info_nce(proxies, proxies, 0.07).backward()
        optimizer.step()
    assert before > 0.95
    assert mean_abs_cosine(proxies).item() < 0.5
