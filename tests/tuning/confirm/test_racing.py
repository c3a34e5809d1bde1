"""Error rates of the race and coverage of its intervals on noisy objectives with known means. `pytest -s` prints them."""

import itertools
import random
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from proxytune.tuning.confirm.racing import clearly_worse, interval, race
from proxytune.tuning.spec.metrics import bounds_of

SEEDS, TOP = 5, 5


def coverage(bounds, truth) -> float:
    low, high = np.array(bounds).T
    return float(np.mean((low <= truth) & (truth <= high)))


NOISE = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails (t, 5 degrees)": lambda rng, shape: rng.standard_t(5, size=shape),
    "skewed (gamma of shape 4)": lambda rng, shape: 4 - rng.gamma(4, size=shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, size=shape),
}


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("num_seeds", [5, 8])
def test_interval_covers_93_to_97_percent(noise: str, num_seeds: int) -> None:
    rng = np.random.default_rng(7)
    values = 0.4 + 0.01 * NOISE[noise](rng, (400 if num_seeds > 7 else 3000, num_seeds))
    covered = coverage([interval(row) for row in values], 0.4)
    print(f"{noise}, {num_seeds} seeds: coverage {covered:.3f}")
    tolerance = 0 if num_seeds == 5 else 0.02  # for fewer repetitions
    assert 0.93 - tolerance <= covered <= 0.97 + tolerance


@pytest.mark.parametrize("num_seeds", [2, 3, 4])
def test_interval_of_fewer_than_five_seeds_is_student_t(num_seeds: int) -> None:
    values = np.random.default_rng(3).normal(size=num_seeds)
    expected = stats.t.interval(0.95, num_seeds - 1, values.mean(), stats.sem(values))
    np.testing.assert_allclose(interval(values), expected)


def test_interval_of_an_accuracy_is_clipped_to_its_bounds() -> None:
    low, high = interval([0.117, 0.24], bounds_of("val_accuracy"))
    assert (low, high) == (0.0, interval([0.117, 0.24])[1])
    assert interval([0.9, 0.99], bounds_of("val_accuracy"))[1] == 1.0


def test_studentised_interval_matches_plain_resampling() -> None:
    values = np.random.default_rng(1).normal(size=SEEDS)
    rows = np.random.default_rng(2).integers(0, SEEDS, size=(400_000, SEEDS))
    drawn = values[rows]
    errors = drawn.std(axis=1, ddof=1) / np.sqrt(SEEDS)
    with np.errstate(divide="ignore"):
        t = (drawn.mean(axis=1) - values.mean()) / errors
    error = values.std(ddof=1) / np.sqrt(SEEDS)
    expected = values.mean() - np.quantile(t, [0.975, 0.025]) * error
    np.testing.assert_allclose(interval(values), expected, atol=0.1 * error)


def test_interval_of_equal_values_is_a_point_and_of_one_value_none() -> None:
    assert interval([0.3] * 5) == (0.3, 0.3)
    assert interval([0.3]) is None
    low, high = interval([0.3, 0.3, 0.3, 0.3, 0.4])  # resamples of equal values must not make it infinite
    assert -1 < low < 0.3 < 0.34 < high < 1


@dataclass
class Outcome:
    """Many confirmations of one kind of search."""

    search_false: float  # rate at which the search's best is not the best candidate
    search_regret: (
        float  # true mean of the best minus that of the search's best, in standard deviations of a seed
    )
    declared_false: float  # rate at which the only remaining candidate is not the best
    regret: float  # true mean of the best minus that of the winner, the cheapest of tied candidates
    tied: float  # rate of ties
    budget: float  # trainings used, as a fraction of TOP * SEEDS
    covered: float  # rate at which the winner's interval contains its true mean
    gap: float  # search score minus confirmed mean of the winner
    curse: float  # search score minus true mean of the winner


def confirmations(truth: NDArray, scores: NDArray, values: NDArray) -> Outcome:
    """Confirm each row of candidates. Their costs are independent of their means."""
    rng = np.random.default_rng(11)
    false, tied, budget, winners = [], [], [], []
    for means, of_row in zip(truth, values, strict=True):
        eliminated = race({number: of_row[:, number, None].tolist() for number in range(TOP)})
        remaining = [number for number in range(TOP) if number not in eliminated]
        winner = int(rng.choice(remaining))
        false.append(len(remaining) == 1 and means[winner] < means.max())
        tied.append(len(remaining) > 1)
        budget.append(sum(eliminated.get(number, SEEDS) for number in range(TOP)) / (TOP * SEEDS))
        winners.append(winner)
    rows, chosen = np.arange(len(truth)), np.array(winners)
    best, found = scores.argmax(axis=1), truth[rows, chosen]
    confirmed = values[rows, :, chosen]
    return Outcome(
        search_false=float(np.mean(truth[rows, best] < truth.max(axis=1))),
        search_regret=float(np.mean(truth.max(axis=1) - truth[rows, best])),
        declared_false=float(np.mean(false)),
        regret=float(np.mean(truth.max(axis=1) - found)),
        tied=float(np.mean(tied)),
        budget=float(np.mean(budget)),
        covered=coverage([interval(row) for row in confirmed], found),
        gap=float(np.mean(scores[rows, chosen] - confirmed.mean(axis=1))),
        curse=float(np.mean(scores[rows, chosen] - found)),
    )


REPETITIONS = 1500


def searched(rng: np.random.Generator, spread: float, trials: int = 64) -> tuple[NDArray, NDArray]:
    """True means and one-seed scores of the TOP trials of a search. The noise has standard deviation 1, the means `spread`."""
    truth = spread * rng.normal(size=(REPETITIONS, trials))
    scores = truth + rng.normal(size=truth.shape)
    best = np.argsort(-scores, axis=1)[:, :TOP]
    return np.take_along_axis(truth, best, 1), np.take_along_axis(scores, best, 1)


def fixed(rng: np.random.Generator, truth: list[float]) -> tuple[NDArray, NDArray]:
    """The given true means, and a one-seed score of each candidate."""
    rows = np.tile(np.array(truth), (REPETITIONS, 1))
    return rows, rows + rng.normal(size=rows.shape)


SEARCHES = {
    "means spread by 0.3": lambda rng: searched(rng, 0.3),
    "means spread by 1": lambda rng: searched(rng, 1),
    "means spread by 3": lambda rng: searched(rng, 3),
    "one better by 1": lambda rng: fixed(rng, [1, 0, 0, 0, 0]),
    "one better by 2": lambda rng: fixed(rng, [2, 0, 0, 0, 0]),
    "steps of 1": lambda rng: fixed(rng, [0, -1, -2, -3, -4]),
}
"""In units of the standard deviation of a seed."""
QUICK = ("means spread by 1", "one better by 1")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SEARCHES]
)
def test_confirmation_errs_less_than_the_search_and_uses_fewer_seeds(name: str) -> None:
    rng = np.random.default_rng(5)
    truth, scores = SEARCHES[name](rng)
    shared = 0.3 * rng.normal(size=(REPETITIONS, SEEDS, 1))  # effect of a seed on all candidates
    values = truth[:, None, :] + shared + rng.normal(size=(REPETITIONS, SEEDS, TOP))
    seen = confirmations(truth, scores, values)
    print(f"{name}: {seen}")
    assert seen.declared_false < min(0.08, 0.5 * seen.search_false)
    assert seen.regret <= seen.search_regret + 0.03
    assert seen.budget < 0.9
    assert 0.93 <= seen.covered <= 0.97
    assert abs(seen.gap - seen.curse) < 0.3  # the race also selects by these values


def test_equal_candidates_mostly_tie() -> None:
    rng = np.random.default_rng(5)
    truth, scores = fixed(rng, [0.0] * TOP)
    values = rng.normal(size=(REPETITIONS, SEEDS, TOP))
    seen = confirmations(truth, scores, values)
    print(f"equal: {seen}")
    assert seen.tied > 0.85
    assert 0.93 <= seen.covered <= 0.97


def test_clearly_worse_candidate_gets_no_third_seed() -> None:
    assert race({1: [[0.90], [0.91], None], 2: [[0.50], [0.52], None], 3: [[0.89], [0.92], None]}) == {2: 2}


def test_diverged_candidate_is_eliminated_and_does_not_affect_the_others() -> None:
    values = {1: [[0.9], [0.9], [0.9]], 2: [[0.9], [float("nan")], None], 3: [[0.9], [0.91], [0.9]]}
    assert race(values) == {2: 2}
    assert race({1: [[float("nan")]]}) == {1: 1}


def test_outcome_is_independent_of_the_order_of_arrival() -> None:
    """With values in random order, eliminations are never revoked, and the final result is the same."""
    rng = np.random.default_rng(2)
    values = rng.normal([0, 0.5, 1, 3], size=(6, 4))
    full = {number: values[:, number, None].tolist() for number in range(4)}
    expected = race(full)
    assert expected
    for repetition in range(20):
        points = list(itertools.product(range(4), range(6)))
        random.Random(repetition).shuffle(points)
        known = {number: [None] * 6 for number in range(4)}
        seen: dict[int, int] = {}
        for number, wave in points:
            known[number][wave] = full[number][wave]
            now = race(known)
            assert seen.items() <= now.items()
            seen = now
        assert seen == expected


def test_only_dominated_candidates_are_eliminated_with_several_objectives() -> None:
    """Higher is better for both objectives: accuracy, and negative memory, which is equal for all seeds."""
    rng = np.random.default_rng(0)
    accuracy = np.array([0.9, 0.8, 0.8, 0.7]) + 0.005 * rng.normal(size=(4, 4))
    memory = np.tile([-10.0, -5.0, -10.0, -5.0], (4, 1))
    assert clearly_worse(np.stack([accuracy, memory], axis=2)).tolist() == [False, False, True, True]
