"""The statistics of a confirmation: which candidate is clearly worse, and an interval for a mean over few seeds.

Candidates race in waves, a wave being one seed for all that are left (F-Race: Birattari et al. 2002; here with the
t-test of a randomised block design, seeds being the blocks, whose variance is pooled over the candidates: two seeds of
five candidates already give it four degrees of freedom). A candidate that is clearly worse than another gets no more
seeds; those that are left after the last seed are tied. One level and no correction for repeated looks: that would
forgo most of what racing saves, and whom it eliminates by mistake is almost as good as the best (the figures are in
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
"""Of the one-sided test that eliminates, and one minus the confidence of an interval."""
MIN_SEEDS = 2
"""Seeds of each candidate before any is eliminated."""
_EXACT_SEEDS = 7  # up to here every resample is looked at; beyond, so many are drawn:
_RESAMPLES = 10_000

Floats = NDArray[np.float64]


def clearly_worse(table: Floats) -> NDArray[np.bool_]:
    """Which candidates are clearly worse than some other one.

    Another candidate must be clearly better in an objective, and in each other one clearly better or equal: so with
    several objectives only those leave that would not be on the Pareto front.

    Args:
        table: what was measured, more being better: (seeds, candidates, objectives).
    """
    seeds, candidates, _ = table.shape
    if seeds < MIN_SEEDS or candidates < 2:
        return np.zeros(candidates, bool)
    means = table.mean(axis=0)
    residuals = table - means - table.mean(axis=1, keepdims=True) + table.mean(axis=(0, 1))
    freedom = (seeds - 1) * (candidates - 1)
    variance = (residuals**2).sum(axis=(0, 1)) / freedom
    scale = np.abs(table).max(axis=(0, 1)) * 1e-9  # what rounding leaves of a variance of zero
    error = np.maximum(np.sqrt(2 * variance / seeds), scale)
    lead = means[None, :, :] - means[:, None, :]  # (worse one, better one, objective)
    clearly = lead > stats.t.isf(LEVEL, freedom) * error
    not_behind = clearly | (np.abs(lead) <= scale)
    worse: NDArray[np.bool_] = (clearly.any(axis=2) & not_behind.all(axis=2)).any(axis=1)
    return worse


def race(values: Mapping[int, Sequence[Sequence[float] | None]]) -> dict[int, int]:
    """The eliminated candidates and after how many seeds, from the values so far.

    Waves are judged one after the other, each as soon as every candidate that is still in has its value, so the
    outcome does not depend on the order in which values came.

    Args:
        values: for each candidate, for each seed in order, its objectives (more being better); None: not known yet;
            not finite: the training broke down, which eliminates too.
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
    """The 95 % confidence interval of the mean over all seeds, from a few of them; None below two.

    The studentised bootstrap (Efron and Tibshirani 1993, section 12.5), over every resample where these can be
    counted. Percentile and BCa intervals of five values cover 82 to 86 % of the time, this one 94 to 96 %. Where
    resamples without spread leave it open (below five values, or many equal ones) it is Student's.
    It ends where values do: accuracies lie `within` 0 and 1.
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
    """The bootstrap's quantiles of (resample's mean - mean) / resample's standard error."""
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
    """Positions of each resample of n values, and its probability."""
    if n > _EXACT_SEEDS:
        drawn = np.random.default_rng(0).integers(0, n, size=(_RESAMPLES, n))
        return drawn, np.full(_RESAMPLES, 1 / _RESAMPLES)
    positions = np.array(list(itertools.combinations_with_replacement(range(n), n)))
    counts = [np.bincount(row, minlength=n) for row in positions]
    ways = [math.factorial(n) / math.prod(math.factorial(count) for count in row) for row in counts]
    return positions, np.array(ways) / n**n
