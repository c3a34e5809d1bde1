"""The statistics of a confirmation: elimination of clearly worse candidates, and intervals for means over few seeds.

Candidates race in waves; a wave is one seed for each remaining candidate (F-Race: Birattari et al. 2002; here with the
t-test of a randomised block design, with seeds as blocks and the variance pooled over candidates, so that two seeds of
five candidates already give four degrees of freedom). A candidate that is clearly worse than another gets no more
seeds; the candidates that remain after the last seed are tied. The level is not corrected for repeated tests: that would
lose most of the savings, and wrongly eliminated candidates are almost as good as the best (figures in
tests/tuning/confirm/test_racing.py and ARCHITECTURE.md).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.05
"""Level of the one-sided elimination test; intervals have confidence 1 - LEVEL."""
MIN_SEEDS = 2
"""Seeds of each candidate before the first elimination."""
_EXACT_SEEDS = 7  # up to this number all resamples are enumerated; above it _RESAMPLES are drawn
_RESAMPLES = 10_000

Floats = NDArray[np.float64]


def clearly_worse(table: Floats) -> NDArray[np.bool_]:
    """Mask of the candidates that are clearly worse than another candidate.

    The other candidate must be clearly better in one objective, and clearly better or equal in all others. With several
    objectives, only candidates off the Pareto front are therefore eliminated.

    Args:
        table: measured values, higher is better, of shape (seeds, candidates, objectives).
    """
    seeds, candidates, _ = table.shape
    if seeds < MIN_SEEDS or candidates < 2:
        return np.zeros(candidates, bool)
    means = table.mean(axis=0)
    residuals = table - means - table.mean(axis=1, keepdims=True) + table.mean(axis=(0, 1))
    freedom = (seeds - 1) * (candidates - 1)
    variance = (residuals**2).sum(axis=(0, 1)) / freedom
    scale = np.abs(table).max(axis=(0, 1)) * 1e-9  # rounding error of a zero variance
    error = np.maximum(np.sqrt(2 * variance / seeds), scale)
    lead = means[None, :, :] - means[:, None, :]  # (worse, better, objective)
    clearly = lead > stats.t.isf(LEVEL, freedom) * error
    not_behind = clearly | (np.abs(lead) <= scale)
    worse: NDArray[np.bool_] = (clearly.any(axis=2) & not_behind.all(axis=2)).any(axis=1)
    return worse


def race(values: Mapping[int, Sequence[Sequence[float] | None]]) -> dict[int, int]:
    """The eliminated candidates and the number of seeds after which each was eliminated.

    Waves are evaluated in order, each as soon as every remaining candidate has its value, so the result does not depend
    on the order in which values arrive.

    Args:
        values: for each candidate, for each seed in order, its objectives (higher is better). None: not known yet.
            Values that are not finite (the training diverged) eliminate the candidate.
    """
    left, out = list(values), dict[int, int]()
    for wave in range(1, min(map(len, values.values()), default=0) + 1):
        newest = {candidate: values[candidate][wave - 1] for candidate in left}
        if any(value is None for value in newest.values()):
            break
        broken = [candidate for candidate, value in newest.items() if not np.isfinite(np.array(value)).all()]
        left = [candidate for candidate in left if candidate not in broken]
        table = np.array([values[candidate][:wave] for candidate in left], dtype=float)
        worse = clearly_worse(table.transpose(1, 0, 2)).tolist() if left else []
        gone = [candidate for candidate, is_worse in zip(left, worse, strict=True) if is_worse]
        left = [candidate for candidate in left if candidate not in gone]
        out |= dict.fromkeys([*broken, *gone], wave)
    return out


def interval(
    values: Sequence[float], within: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, float] | None:
    """The 95 % confidence interval of the mean over seeds; None for fewer than two values.

    The studentised bootstrap (Efron and Tibshirani 1993, section 12.5), over all resamples if they can be enumerated.
    For five values, percentile and BCa intervals have a coverage of 82 to 86 %, this interval 94 to 96 %. If resamples
    without spread make it unbounded (fewer than five values, or many equal values), Student's interval is used. The
    bounds are clipped to `within`, such as 0 and 1 for accuracies.
    """
    x = np.asarray(values, float)
    n = len(x)
    if n < 2:
        return None
    mean, error = float(x.mean()), float(x.std(ddof=1)) / math.sqrt(n)
    if error <= 1e-12 * max(abs(mean), 1e-300):
        return mean, mean
    low_t, high_t = _studentised(x, error) if n >= 5 else (-math.inf, math.inf)
    if not (math.isfinite(low_t) and math.isfinite(high_t)):
        high_t = float(stats.t.isf(LEVEL / 2, n - 1))
        low_t = -high_t
    return max(within[0], mean - high_t * error), min(within[1], mean - low_t * error)


def _studentised(x: Floats, error: float) -> tuple[float, float]:
    """Bootstrap quantiles of (mean of the resample - mean) / standard error of the resample."""
    n = len(x)
    positions, weights = _resamples(n)
    drawn = x[positions]
    errors = drawn.std(axis=1, ddof=1) / math.sqrt(n)
    shifts = drawn.mean(axis=1) - x.mean()
    flat = errors <= 1e-9 * error
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(flat, np.sign(np.round(shifts / error, 9)), shifts) / np.where(flat, 0.0, errors)
    t[flat & np.isnan(t)] = 0.0
    order = np.argsort(t)
    below = np.cumsum(weights[order])
    low, high = np.searchsorted(below, [LEVEL / 2, 1 - LEVEL / 2 - 1e-12])
    return float(t[order[low]]), float(t[order[high]])


@lru_cache(maxsize=16)
def _resamples(n: int) -> tuple[NDArray[np.intp], Floats]:
    """Indices and probability of each resample of n values."""
    if n > _EXACT_SEEDS:
        drawn = np.random.default_rng(0).integers(0, n, size=(_RESAMPLES, n))
        return drawn, np.full(_RESAMPLES, 1 / _RESAMPLES)
    positions = np.array(list(itertools.combinations_with_replacement(range(n), n)))
    counts = [np.bincount(row, minlength=n) for row in positions]
    ways = [math.factorial(n) / math.prod(math.factorial(count) for count in row) for row in counts]
    return positions, np.array(ways) / n**n
