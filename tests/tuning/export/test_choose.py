"""Which trial wins: rules over plain records, against slow and obvious ones."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxytune.tuning.errors import InputError
from proxytune.tuning.export.choose import (
    THROUGHPUT,
    Limits,
    Selection,
    best_record,
    choose,
    choose_front,
    front,
    front_objectives,
)
from proxytune.tuning.export.records import TrialRecord
from proxytune.tuning.spec.constraints import parse_constraint
from proxytune.tuning.spec.metrics import MEMORY

ACCURACY = {"val_accuracy": "maximize"}
BOTH = ACCURACY | {MEMORY: "minimize"}
CONSTRAINT = [parse_constraint(MEMORY, "<= 5")]


def record(
    trial: int,
    accuracy: float,
    memory: float = 1.0,
    *,
    outcome: str = "complete",
    excess: float = -1.0,
    **metrics: float,
) -> TrialRecord:
    values: dict[str, Any] = {
        "trial": trial,
        "outcome": outcome,
        "params": {},
        "step": 10,
        "metrics": {"val_accuracy": accuracy, MEMORY: memory} | metrics,
        "values": {"val_accuracy": accuracy} if outcome == "complete" else {},
        "violations": {MEMORY: excess},
        "reports": {},
        "rungs": {},
        "reason": "",
        "attempts": 1,
        "started": None,
        "ended": None,
    }
    return TrialRecord(**values)


def test_the_best_eligible_trial_wins_and_ties_go_to_the_lower_number() -> None:
    records = [
        record(0, 0.3),
        record(1, 0.9, outcome="pruned"),
        record(2, 0.8, excess=0.1),
        record(3, 0.5),
        record(4, 0.5),
    ]
    selection = choose("s", records, ACCURACY)
    assert (selection.trial, selection.rule) == (3, "best")
    assert best_record(records, {"val_accuracy": "minimize"}) == records[0]


def test_with_several_objectives_the_first_one_decides_on_the_front() -> None:
    records = [record(0, 0.3, 1.0), record(1, 0.5, 2.0), record(2, 0.5, 3.0)]
    selection = choose("s", records, BOTH)
    assert (selection.trial, selection.rule) == (1, "front")
    assert [one.trial for one in front(records, BOTH)] == [0, 1]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), min_size=1, max_size=12))
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int, bool]]) -> None:
    records = [
        record(number, float(a), float(m), excess=-1.0 if feasible else 1.0)
        for number, (a, m, feasible) in enumerate(points)
    ]
    eligible = [number for number, point in enumerate(points) if point[2]]
    expected = [
        n
        for n in eligible
        if not any(
            points[o][0] >= points[n][0] and points[o][1] <= points[n][1] and points[o][:2] != points[n][:2]
            for o in eligible
        )
    ]
    assert [one.trial for one in front(records, BOTH)] == expected


def test_limits_are_kept_and_the_confirmed_winner_goes_before_the_searchs_best() -> None:
    records = [
        record(0, 0.3, 1.0, **{THROUGHPUT: 50.0}),
        record(1, 0.4, 3.0, **{THROUGHPUT: 20.0}),
        record(2, 0.9, 9.0),
    ]
    assert choose("s", records, ACCURACY, limits=Limits(max_memory_mib=3.0)).trial == 1
    chosen = choose("s", records, ACCURACY, limits=Limits(max_memory_mib=3.0, min_throughput=30))
    assert (chosen.trial, chosen.rule) == (0, "limits")
    assert chosen.limits == {"max_memory_mib": 3.0, "min_throughput": 30}
    assert "train_sequences_per_second >= 30" in chosen.text
    confirmed = choose("s", records, ACCURACY, confirmed=1)
    assert (confirmed.trial, confirmed.rule) == (1, "confirmed")


def test_a_lone_objective_is_drawn_against_memory() -> None:
    assert front_objectives(ACCURACY) == BOTH
    selections = choose_front("s", [record(0, 0.3, 1.0), record(1, 0.2, 2.0)], ACCURACY)
    assert selections == [Selection(trial=0, rule="pareto", objectives=BOTH)]


@pytest.mark.parametrize(
    ("records", "asked", "words"),
    [
        ([], {}, ["no trial of the full budget", "run it further"]),
        ([record(0, 0.1, outcome="pruned")], {}, ["1 trials so far"]),
        (
            [record(0, 0.9, 9.0, excess=4.0), record(1, 0.1, 6.0, excess=1.0)],
            {},
            ["train_memory_mib_per_sequence <= 5", "trial 1 comes nearest", "6"],
        ),
        (
            [record(0, 0.9, 9.0), record(1, 0.1, 6.0)],
            {"limits": Limits(max_memory_mib=2)},
            ["<= 2", "trial 1 comes nearest", "6"],
        ),
        (
            [record(0, 0.9)],
            {"limits": Limits(min_throughput=1.0)},
            ["has measured train_sequences_per_second"],
        ),
        ([record(0, 0.9)], {"number": 7}, ["no trial 7", "0 to 0"]),
        ([record(0, 0.9, outcome="diverged")], {"number": 0}, ["trial 0 is diverged"]),
    ],
)
def test_what_cannot_be_chosen_says_why(
    records: list[TrialRecord], asked: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as raised:
        choose("s", records, ACCURACY, constraints=CONSTRAINT, **asked)
    for word in words:
        assert word in str(raised.value)
    if "number" not in asked and "limits" not in asked:
        with pytest.raises(InputError):
            choose_front("s", records, ACCURACY, CONSTRAINT)


@given(
    st.builds(
        record,
        st.integers(0, 9),
        st.floats(allow_nan=False),
        excess=st.floats(allow_nan=False),
        outcome=st.sampled_from(["complete", "pruned"]),
    )
)
def test_records_survive_strict_json(one: TrialRecord) -> None:
    import json

    text = json.dumps(one.to_json(), allow_nan=False)
    assert TrialRecord.from_json(json.loads(text)) == one


def test_a_value_that_is_not_finite_comes_last() -> None:
    assert best_record([record(0, math.nan), record(1, 0.1)], ACCURACY) == record(1, 0.1)
