"""Successive halving: which trials continue after a rung."""

import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import SuccessiveHalvingPruner

from proxytune.tuning.search.rungs import MEDIAN_STARTUP, Entry, Rungs, best_share, better_half, rank

values = st.floats(min_value=-100, max_value=100)


def optuna_continues(others: list[float], value: float, factor: int) -> bool:
    """Whether Optuna's successive halving continues a trial (minimized) that reaches a rung after others."""
    study = optuna.create_study(
        pruner=SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor, min_early_stopping_rate=0)
    )
    for reached in [*others, value]:
        trial = study.ask()
        trial.report(reached, 1)
        continues = not trial.should_prune()
    return continues


@settings(max_examples=50)
@given(st.lists(values, min_size=1, max_size=15), st.integers(2, 5))
def test_rule_for_one_objective_agrees_with_optuna(history: list[float], factor: int) -> None:
    """Optuna keeps the best 1/factor of n trials, rounded down; here one more continues.

    Optuna decides the same if worse trials fill its rung up to the next multiple of factor.
    """
    rungs = Rungs([10], best_share(factor))
    for trial, value in enumerate(history):
        rungs.enter(trial, 10, Entry(values=(value,)))
    missing = factor - len(history) % factor
    expected = optuna_continues([*history[:-1], *([1e9] * missing)], history[-1], factor)
    assert rungs.continues(len(history) - 1, 10) == expected


@pytest.mark.parametrize(
    ("factor", "arrivals"),
    [
        (2, [(5.0, True), (6.0, True), (7.0, False), (4.0, True), (5.5, True), (6.5, False)]),
        (3, [(5.0, True), (6.0, False), (5.5, True), (4.0, True), (4.5, True), (5.2, False)]),
        (3, [(1.0, True), (1.0, True), (1.0, True), (2.0, False)]),  # equal trials continue together
    ],
)
def test_rule_matches_a_calculation_by_hand(factor: int, arrivals: list[tuple[float, bool]]) -> None:
    """The last of n arrivals continues if fewer than n // factor + 1 are better."""
    rungs = Rungs([10], best_share(factor))
    for trial, (value, expected) in enumerate(arrivals):
        rungs.enter(trial, 10, Entry(values=(value,)))
        assert rungs.continues(trial, 10) == expected, trial


def test_only_the_first_crossing_counts() -> None:
    rungs = Rungs([10], best_share(2))
    rungs.enter(0, 10, Entry(values=(5.0,)))
    rungs.enter(1, 10, Entry(values=(1.0,)))
    rungs.enter(2, 10, Entry(values=(2.0,)))
    rungs.enter(0, 10, Entry(values=(0.0,)))  # reported again after a resume, with a later value
    assert not rungs.continues(0, 10)


def test_highest_rung_between_two_reports_is_crossed() -> None:
    rungs = Rungs([10, 30, 90], best_share(3))
    assert rungs.crossed(0, 9) is None
    assert rungs.crossed(0, 10) == 10
    assert rungs.crossed(5, 40) == 30
    assert rungs.crossed(30, 40) is None


@given(st.lists(values, min_size=1, max_size=8))
def test_non_finite_value_never_continues(others: list[float]) -> None:
    for bad in (math.nan, math.inf):
        rungs = Rungs([1], best_share(2))
        for trial, value in enumerate(others):
            rungs.enter(trial, 1, Entry(values=(value,)))
        rungs.enter(99, 1, Entry(values=(bad,)))
        assert not rungs.continues(99, 1)
        rungs.enter(100, 1, Entry(values=(min(others) - 1,)))
        assert rungs.continues(100, 1)


@given(st.lists(st.tuples(values, values, st.sampled_from([0.0, 0.0, 1.0, 2.0])), min_size=1, max_size=20))
def test_rank_orders_no_dominated_trial_before_a_better_one(points: list[tuple[float, float, float]]) -> None:
    entries = {
        trial: Entry(values=(a, b), violation=violation) for trial, (a, b, violation) in enumerate(points)
    }
    order = rank(entries)
    assert sorted(order) == sorted(entries)
    for position, trial in enumerate(order):
        for later in order[position + 1 :]:
            worse, better = entries[trial], entries[later]
            dominated = better.violation < worse.violation or (
                better.violation == worse.violation
                and better.values != worse.values
                and all(x <= y for x, y in zip(better.values, worse.values, strict=True))
            )
            assert not dominated


def test_rank_prefers_the_ends_of_a_front_to_its_crowded_middle() -> None:
    entries = {
        n: Entry(values=point) for n, point in enumerate([(0.0, 1.0), (0.5, 0.5), (0.51, 0.49), (1.0, 0.0)])
    }
    assert set(rank(entries)[:2]) == {0, 3}


def test_median_rule_keeps_the_better_half_after_its_startup_trials() -> None:
    rungs = Rungs([1], better_half)
    for trial in range(MEDIAN_STARTUP - 1):
        rungs.enter(trial, 1, Entry(values=(float(trial),)))
        assert rungs.continues(trial, 1)
    for trial, value, expected in [(90, 50.0, False), (91, -1.0, True), (92, 0.5, True), (93, 2.5, False)]:
        rungs.enter(trial, 1, Entry(values=(value,)))
        assert rungs.continues(trial, 1) == expected
