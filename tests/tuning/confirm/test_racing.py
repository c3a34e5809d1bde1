"""What the race and its intervals promise, on noisy objectives whose truth is known. `pytest -s` prints the figures."""

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
    slack = 0 if num_seeds == 5 else 0.02  # of fewer repetitions
    assert 0.93 - slack <= covered <= 0.97 + slack


@pytest.mark.parametrize("num_seeds", [2, 3, 4])
def test_interval_of_fewer_than_five_seeds_is_student_t(num_seeds: int) -> None:
    values = np.random.default_rng(3).normal(size=num_seeds)
    expected = stats.t.interval(0.95, num_seeds - 1, values.mean(), stats.sem(values))
    np.testing.assert_allclose(interval(values), expected)


def test_interval_of_an_accuracy_is_clipped_to_its_bounds() -> None:
    low, high = interval([0.117, 0.24], bounds_of("val_accuracy"))
    assert (low, high) == (0.0, interval([0.117, 0.24])[1])
    assert interval([0.9, 0.99], bounds_of("val_accuracy"))[1] == 1.0


def test_the_percentile_bootstrap_would_undercover() -> None:
    """Why the interval is the studentised one: the test above would refuse this."""
    values = np.random.default_rng(7).normal(size=(1000, SEEDS))
    positions = np.random.default_rng(0).integers(0, SEEDS, size=(1000, SEEDS))
    bounds = np.quantile(values[:, positions].mean(axis=2), [0.025, 0.975], axis=1).T
    assert coverage(bounds, 0.0) < 0.88


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
    low, high = interval([0.3, 0.3, 0.3, 0.3, 0.4])  # resamples without spread would leave it open
    assert -1 < low < 0.3 < 0.34 < high < 1


@dataclass
class Outcome:
    """Many confirmations of one kind of search."""

    search_false: float  # the search's best is not the best candidate
    search_regret: float  # by how much its truth is worse, in standard deviations of a seed
    declared_false: float  # a sole winner that is not the best candidate
    regret: float  # of the winner, the cheapest of those that are tied
    tied: float
    budget: float  # trainings used, as a share of TOP * SEEDS
    covered: float  # winner's interval
    gap: float  # search's score minus confirmed mean, of the winner
    curse: float  # search's score minus truth, of the winner


def confirmations(truth: NDArray, scores: NDArray, values: NDArray) -> Outcome:
    """Confirm each row of candidates; which one is cheap has nothing to do with how good it is."""
    rng = np.random.default_rng(11)
    false, tied, budget, winners = [], [], [], []
    for true, own in zip(truth, values, strict=True):
        out = race({number: own[:, number, None].tolist() for number in range(TOP)})
        left = [number for number in range(TOP) if number not in out]
        winner = int(rng.choice(left))
        false.append(len(left) == 1 and true[winner] < true.max())
        tied.append(len(left) > 1)
        budget.append(sum(out.get(number, SEEDS) for number in range(TOP)) / (TOP * SEEDS))
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
    """Truth and one-seed scores of the TOP of a search; a seed's standard deviation is 1, `spread` that of the truth."""
    truth = spread * rng.normal(size=(REPETITIONS, trials))
    scores = truth + rng.normal(size=truth.shape)
    best = np.argsort(-scores, axis=1)[:, :TOP]
    return np.take_along_axis(truth, best, 1), np.take_along_axis(scores, best, 1)


def fixed(rng: np.random.Generator, truth: list[float]) -> tuple[NDArray, NDArray]:
    """Candidates that are what they are, and a one-seed score of each."""
    rows = np.tile(np.array(truth), (REPETITIONS, 1))
    return rows, rows + rng.normal(size=rows.shape)


SEARCHES = {
    "noise mostly": lambda rng: searched(rng, 0.3),
    "as much truth as noise": lambda rng: searched(rng, 1),
    "truth mostly": lambda rng: searched(rng, 3),
    "one better by one": lambda rng: fixed(rng, [1, 0, 0, 0, 0]),
    "one better by two": lambda rng: fixed(rng, [2, 0, 0, 0, 0]),
    "a staircase": lambda rng: fixed(rng, [0, -1, -2, -3, -4]),
}


QUICK = ("as much truth as noise", "one better by one")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SEARCHES]
)
def test_confirmation_errs_less_than_the_search_and_uses_fewer_seeds(name: str) -> None:
    rng = np.random.default_rng(5)
    truth, scores = SEARCHES[name](rng)
    shared = 0.3 * rng.normal(size=(REPETITIONS, SEEDS, 1))  # a seed that is kind to all
    values = truth[:, None, :] + shared + rng.normal(size=(REPETITIONS, SEEDS, TOP))
    seen = confirmations(truth, scores, values)
    print(f"{name}: {seen}")
    assert seen.declared_false < min(0.08, 0.5 * seen.search_false)
    assert seen.regret <= seen.search_regret + 0.03
    assert seen.budget < 0.9
    assert 0.93 <= seen.covered <= 0.97
    assert abs(seen.gap - seen.curse) < 0.3  # the race chose by these values too, a little


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
    """Replayed with values coming in any order: decisions once taken stay, and the end is the same."""
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
    """More is better: accuracy, and memory with its sign turned, which is the same for every seed."""
    rng = np.random.default_rng(0)
    accuracy = np.array([0.9, 0.8, 0.8, 0.7]) + 0.005 * rng.normal(size=(4, 4))
    memory = np.tile([-10.0, -5.0, -10.0, -5.0], (4, 1))
    assert clearly_worse(np.stack([accuracy, memory], axis=2)).tolist() == [False, False, True, True]
