"""A Gaussian process over learning curves that predicts the value at the full budget from values at any step.

An observation is a value y of configuration x (a point of the unit cube) at s = ln(step / full budget); s = 0 is the
full budget. The covariance of two observations is

    k((x, s), (x', s')) = v_f M(|x - x'| / l_x) M(|s - s'| / l_s) + v_t exp(-(s - s')^2 / (2 TREND^2))
                          + (v_n + v_e s^2) [same]

where M is the Matern 5/2 function, with one length scale l_x per coordinate. The first term models the differences
between configurations: l_s sets how fast the correlation between early and final values decays, and therefore how much
a stopped trial contributes. The second term is the trend shared by all curves. The third is noise; v_e is the noise of
early values, which grows with the distance from the full budget. As in freeze-thaw
optimisation (Swersky et al. 2014, arXiv 1406.3896), all curves, including those of stopped trials, enter one process;
the product of kernels over configuration and fidelity is that of BOCA (Kandasamy et al. 2017, arXiv 1703.06240). The
logarithms of l_x, l_s, v_f, v_t, v_n and v_e maximise the posterior density under normal priors (the prior mean of l_x grows
with the square root of the dimension, Hvarfner et al. 2024, arXiv 2402.02229).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, lapack, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]
TREND = 2.0
JITTER = 1e-8
MAX_ITERATIONS = 20


@dataclass(frozen=True)
class Observations:
    """Values y (n), standardised, at points x (n, d) and log fidelities s (n)."""

    x: Array
    s: Array
    y: Array

    def take(self, rows: NDArray[np.intp]) -> "Observations":
        return Observations(self.x[rows], self.s[rows], self.y[rows])


def prior(dimensions: int) -> tuple[Array, Array]:
    """Prior mean and standard deviation of the logarithms of l_x (one per coordinate), l_s, v_f, v_t, v_n and v_e."""
    lengths = np.full(dimensions, math.log(0.3 * math.sqrt(dimensions)))
    mean = np.concatenate([lengths, np.log([2.4, 1.0, 0.3, 1e-3, 1e-3])])
    return mean, np.concatenate([np.ones(dimensions), [0.7, 1.0, 1.0, 1.5, 1.5]])


class CurveModel:
    """The Gaussian process conditioned on observations."""

    def __init__(self, theta: Array, seen: Observations) -> None:
        """`theta` holds the logarithms of l_x (one per coordinate), l_s, v_f, v_t, v_n and v_e, as returned by `fit`."""
        self._theta = theta
        self._seen = seen
        size = seen.x.shape[1]
        self._scales = np.exp(-theta[:size])
        self._length, self._v_f, self._v_t, v_n, v_e = np.exp(theta[size:])
        self._scaled = seen.x * self._scales
        covariance = self._covariance(self._scaled, (seen.s[:, None] - seen.s) ** 2)
        covariance[np.diag_indices(len(seen.y))] += v_n + v_e * seen.s**2 + JITTER
        self._factor = cholesky(covariance, lower=True, check_finite=False)
        self._weights = cho_solve((self._factor, True), seen.y, check_finite=False)

    def mean(self, x: Array) -> Array:
        """Posterior mean at the full budget for points (rows)."""
        return np.asarray(self._covariance(x * self._scales, self._seen.s**2) @ self._weights)

    def final(self, x: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation at the full budget for points (rows), without noise."""
        cross = self._covariance(x * self._scales, self._seen.s**2)
        explained = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = self._v_f + self._v_t - (explained**2).sum(axis=0)
        return cross @ self._weights, np.sqrt(np.maximum(variance, 1e-9))

    def with_predictions(self, x: Array) -> "CurveModel":
        """The process with its own predictions for points (rows) added as observations (Ginsbourger et al. 2010)."""
        seen = self._seen
        return CurveModel(
            self._theta,
            Observations(
                np.concatenate([seen.x, x]),
                np.concatenate([seen.s, np.zeros(len(x))]),
                np.concatenate([seen.y, self.mean(x)]),
            ),
        )

    def _covariance(self, scaled: Array, apart: Array) -> Array:
        """Covariance of points (scaled rows) with the observations; `apart`: squared distances in s, for each row or all."""
        far = (scaled**2).sum(axis=1)[:, None] + (self._scaled**2).sum(axis=1) - 2 * scaled @ self._scaled.T
        own = self._v_f * _matern(np.maximum(far, 0.0)) * _matern(apart / self._length**2)
        return np.asarray(own + self._v_t * np.exp(-apart / (2 * TREND**2)))


def fit(seen: Observations, start: Array) -> Array:
    """The hyperparameters of highest posterior density that L-BFGS-B finds from `start`."""
    x_squares = (seen.x.T[:, :, None] - seen.x.T[:, None, :]) ** 2
    s_squares = (seen.s[:, None] - seen.s) ** 2
    mean, deviation = prior(seen.x.shape[1])
    found = minimize(
        _loss,
        start,
        args=(x_squares, s_squares, seen.s, seen.y),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(mean - 5 * deviation, mean + 5 * deviation, strict=True)),
        options={"maxiter": MAX_ITERATIONS},
    )
    return np.asarray(found.x)


def _loss(theta: Array, x_squares: Array, s_squares: Array, s: Array, y: Array) -> tuple[float, Array]:
    """Negative log posterior density, up to a constant, and its gradient."""
    size = len(x_squares)
    inverse = np.exp(-2 * theta[: size + 1])
    v_f, v_t, v_n, v_e = np.exp(theta[size + 1 :])
    far, apart = np.tensordot(inverse[:size], x_squares, 1), s_squares * inverse[size]
    over_x, over_s = _matern(far), _matern(apart)
    own, trend = v_f * over_x * over_s, v_t * np.exp(-s_squares / (2 * TREND**2))
    covariance = own + trend
    covariance[np.diag_indices(len(y))] += v_n + v_e * s**2 + JITTER
    factor = cholesky(covariance, lower=True, check_finite=False)
    weights = cho_solve((factor, True), y, check_finite=False)
    loss = 0.5 * float(y @ weights) + float(np.log(np.diag(factor)).sum())
    lower = np.tril(lapack.dpotri(factor, lower=1)[0])
    outer = 0.5 * (lower + np.tril(lower, -1).T - np.outer(weights, weights))  # d loss / d covariance
    gradient = np.empty_like(theta)
    by_far = outer * v_f * over_s * _matern_slope(far)
    gradient[:size] = -2 * inverse[:size] * np.tensordot(x_squares, by_far, 2)
    gradient[size] = -2 * float((outer * v_f * over_x * _matern_slope(apart) * apart).sum())
    noise = np.diag(outer)
    gradient[size + 1 :] = (outer * own).sum(), (outer * trend).sum(), v_n * noise.sum(), v_e * (noise @ s**2)
    mean, deviation = prior(size)
    off = (theta - mean) / deviation
    return loss + 0.5 * float(off @ off), gradient + off / deviation


def _matern(square: Array) -> Array:
    """Matern 5/2 of a squared distance."""
    root = np.sqrt(5 * square + 1e-12)
    return np.asarray((1 + root + root**2 / 3) * np.exp(-root))


def _matern_slope(square: Array) -> Array:
    """Derivative of Matern 5/2 with respect to the squared distance."""
    root = np.sqrt(5 * square + 1e-12)
    return np.asarray(-5 / 6 * (1 + root) * np.exp(-root))
