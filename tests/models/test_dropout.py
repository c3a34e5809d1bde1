"""Dropout from a few random bits per element: rate, scale, gradient and independence."""

from __future__ import annotations

import pytest
import torch

from proxytune.models.dropout import LEVELS, dropout, keep_mask


@pytest.mark.parametrize("p", [0.001, 0.1, 0.37, 0.5, 0.9])
def test_dropout_rate_scale_and_gradient(p: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.full((1000, 1000), 3.0, requires_grad=True)
        y = dropout(x, p, training=True)
        y.sum().backward()
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - p) < 4 * (p * (1 - p) / 1e6) ** 0.5 + 1 / LEVELS
    kept = y[y != 0]
    assert torch.allclose(kept, torch.tensor(3 / (1 - p)), rtol=1e-4)
    assert torch.equal(x.grad != 0, y != 0)
    assert torch.allclose(x.grad[x.grad != 0], torch.tensor(1 / (1 - p)), rtol=1e-4)


def test_rate_next_to_one_has_a_finite_scale() -> None:
    """It is rounded to less than 1."""
    y = dropout(torch.ones(100_000), 0.999995, training=True)
    assert torch.isfinite(y).all()
    assert set(y.unique().tolist()) <= {0.0, float(LEVELS)}


def test_neighbors_in_one_random_word_are_independent() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drops = ~keep_mask((500_000, 4), 0.3, torch.device("cpu"))
    both = torch.tensor([(drops[:, i] & drops[:, j]).double().mean() for i in range(4) for j in range(i)])
    assert torch.allclose(both, torch.tensor(0.09, dtype=torch.float64), atol=0.003)


def test_dropout_is_identity_in_evaluation_and_at_rate_zero() -> None:
    x = torch.randn(5, 7)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert keep_mask((3, 5, 1), 0.2, torch.device("cpu")).shape == (3, 5, 1)
