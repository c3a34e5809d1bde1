"""The Gaussian process over learning curves against a direct implementation of the textbook formulas."""

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from proxytune.tuning.search import curve_model
from proxytune.tuning.search.curve_model import CurveModel, Observations, fit, prior


@pytest.fixture
def seen() -> Observations:
    generator = np.random.default_rng(0)
    x, s = generator.random((12, 2)), -3 * generator.random(12)
    return Observations(x, s, np.sin(3 * x[:, 0]) + 0.3 * s)


def covariance(theta, first, second) -> float:
    """The kernel in the module's docstring for two points (x, s)."""

    def matern(distance: float) -> float:
        root = math.sqrt(5) * distance
        return (1 + root + root**2 / 3) * math.exp(-root)

    *lengths, length_s, v_f, v_t, _, _ = np.exp(theta)
    far = math.sqrt(
        sum(((a - b) / length) ** 2 for a, b, length in zip(first[0], second[0], lengths, strict=True))
    )
    apart = abs(first[1] - second[1])
    trend = math.exp(-(apart**2) / (2 * curve_model.TREND**2))
    return v_f * matern(far) * matern(apart / length_s) + v_t * trend


def test_prediction_matches_the_formulas(seen: Observations) -> None:
    theta = prior(2)[0] + 0.1
    points = np.random.default_rng(1).random((5, 2))
    known = list(zip(seen.x, seen.s, strict=True))
    matrix = np.array([[covariance(theta, row, column) for column in known] for row in known])
    noise, early_noise = np.exp(theta[-2:])
    matrix += np.diag(noise + early_noise * seen.s**2 + curve_model.JITTER)
    mean, deviation = CurveModel(theta, seen).final(points)
    for row, point in enumerate(points):
        cross = np.array([covariance(theta, (point, 0.0), other) for other in known])
        own = covariance(theta, (point, 0.0), (point, 0.0))
        assert mean[row] == pytest.approx(cross @ np.linalg.solve(matrix, seen.y), abs=1e-6)
        assert deviation[row] ** 2 == pytest.approx(own - cross @ np.linalg.solve(matrix, cross), abs=1e-6)


def test_gradient_matches_finite_differences_of_the_loss(seen: Observations) -> None:
    squares = (seen.x.T[:, :, None] - seen.x.T[:, None, :]) ** 2, (seen.s[:, None] - seen.s) ** 2
    theta = prior(2)[0] + np.linspace(-0.3, 0.3, 7)
    _, gradient = curve_model._loss(theta, *squares, seen.s, seen.y)
    numeric = approx_fprime(theta, lambda at: curve_model._loss(at, *squares, seen.s, seen.y)[0], 1e-6)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-3)


def test_fit_has_a_lower_loss_than_the_prior(seen: Observations) -> None:
    squares = (seen.x.T[:, :, None] - seen.x.T[:, None, :]) ** 2, (seen.s[:, None] - seen.s) ** 2
    start = prior(2)[0]
    fitted = fit(seen, start)
    assert (
        curve_model._loss(fitted, *squares, seen.s, seen.y)[0]
        < curve_model._loss(start, *squares, seen.s, seen.y)[0]
    )


def test_curve_is_less_informative_the_earlier_it_stops() -> None:
    theta = prior(1)[0]
    x = np.array([[0.5]])
    deviations = [
        CurveModel(theta, Observations(x, np.array([s]), np.array([1.0]))).final(x)[1][0]
        for s in (-4.0, -2.0, 0.0)
    ]
    assert deviations == sorted(deviations, reverse=True)


def test_fit_separates_the_noise_of_early_and_late_values() -> None:
    """The early values are pure noise, the values at the full budget have none."""
    generator = np.random.default_rng(0)
    x = np.repeat(generator.random((30, 1)), 2, axis=0)
    s = np.tile([-3.0, 0.0], 30)
    y = np.where(s < 0, generator.normal(size=60), np.sin(6 * x[:, 0]))
    theta = fit(Observations(x, s, y), prior(1)[0])
    noise, early_noise = np.exp(theta[-2:])
    assert noise < 0.05
    assert 0.3 < noise + 9 * early_noise < 3
