"""InfoNCE over proxies: the values that can be computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from proxytune.models.contrastive import info_nce
from proxytune.models.diagnostics import effective_rank, mean_abs_cosine


def proxies_with_cosine(c: float, m: int = 128) -> torch.Tensor:
    """m unit vectors, any two of them at cosine c."""
    gram = torch.full((m, m), c, dtype=torch.float64)
    return torch.linalg.cholesky(gram.fill_diagonal_(1.0) + 1e-12 * torch.eye(m)).float()


@pytest.mark.parametrize(
    ("c", "loss"), [(0.0, 8e-5), (0.3, 0.006), (0.5, 0.096), (0.66, 0.69), (0.8, 2.1), (0.9, 3.4)]
)
def test_equal_cosines_at_the_papers_temperature(c: float, loss: float) -> None:
    proxies = proxies_with_cosine(c)
    exact = math.log(1 + 127 * math.exp((c - 1) / 0.07))
    assert info_nce(proxies, proxies, 0.07).item() == pytest.approx(exact, rel=1e-2, abs=1e-6)
    assert exact == pytest.approx(loss, rel=0.05)
    assert mean_abs_cosine(proxies).item() == pytest.approx(c, abs=1e-5)


def test_identical_proxies_cost_ln_m_at_any_temperature() -> None:
    proxies = torch.ones(2, 16, 8) * torch.rand(2, 16, 1)
    for temperature in (0.02, 0.07, 1.0):
        assert info_nce(proxies, proxies, temperature).item() == pytest.approx(math.log(16), rel=1e-5)
    assert effective_rank(proxies).item() == pytest.approx(1.0, abs=1e-3)
    assert effective_rank(torch.eye(8)).item() == pytest.approx(8.0)


def test_two_views_against_a_loop() -> None:
    anchors, views = torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    terms = []
    for b in range(3):
        cosines = torch.nn.functional.cosine_similarity(anchors[b, :, None], views[b, None], dim=-1) / 0.2
        terms += [
            -math.log(math.exp(row[i]) / sum(math.exp(x) for x in row)) for i, row in enumerate(cosines)
        ]
    assert info_nce(anchors, views, 0.2).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_it_is_computed_in_fp32_under_autocast() -> None:
    proxies = torch.randn(2, 16, 8)
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(proxies, proxies, 0.07)
    assert loss.dtype == torch.float32
    assert loss == info_nce(proxies, proxies, 0.07)


def test_the_gradient_separates_duplicates() -> None:
    proxies = (torch.ones(16, 32) + 0.1 * torch.randn(16, 32)).requires_grad_()
    before = mean_abs_cosine(proxies).item()
    optimizer = torch.optim.Adam([proxies], lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        info_nce(proxies, proxies, 0.07).backward()
        optimizer.step()
    assert before > 0.95
    assert mean_abs_cosine(proxies).item() < 0.5
