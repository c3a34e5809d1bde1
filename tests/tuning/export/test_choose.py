"""The choice of the exported trial from records, compared with simple reference implementations."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxytune.tuning.errors import InputError
from proxytune.tuning.export.choose import Selection, choose
from proxytune.tuning.export.request import THROUGHPUT, ExportRequest, export_request
from proxytune.tuning.spec import ranking
from proxytune.tuning.spec.constraints import parse_constraint
from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.store.confirmation import Candidate, Confirmation
from proxytune.tuning.store.records import TrialRecord

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


def test_best_eligible_trial_wins_and_ties_go_to_the_lower_number() -> None:
    records = [
        record(0, 0.3),
        record(1, 0.9, outcome="pruned"),
        record(2, 0.8, excess=0.1),
        record(3, 0.5),
        record(4, 0.5),
    ]
    (selection,) = choose("s", records, ACCURACY)
    assert (selection.trial, selection.rule) == (3, "best")
    assert selection.text.startswith("best search value: the best val_accuracy")


def test_second_objective_breaks_ties_so_that_the_best_is_on_the_front() -> None:
    records = [record(0, 0.3, 1.0), record(1, 0.5, 3.0), record(2, 0.5, 2.0)]
    (selection,) = choose("s", records, BOTH)
    assert (selection.trial, selection.rule) == (2, "best")
    front = choose("s", records, BOTH, request=ExportRequest(pareto=True))
    assert [selection.trial for selection in front] == [0, 2]


POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)


@given(POINTS)
def test_front_is_the_non_dominated_set_and_contains_the_best(points: list[tuple[int, int]]) -> None:
    measured = {number: {"val_accuracy": float(a), MEMORY: float(m)} for number, (a, m) in enumerate(points)}
    expected = [
        number
        for number, (a, m) in enumerate(points)
        if not any(other >= a and memory <= m and (other, memory) != (a, m) for other, memory in points)
    ]
    assert ranking.front(measured, BOTH) == expected
    best = ranking.best(measured, BOTH)
    assert best in expected
    assert points[best][0] == max(a for a, _ in points)
    assert ranking.ordered(measured, BOTH)[0] == best


def confirmation(winner: int, tied: dict[int, float]) -> Confirmation:
    """A confirmation over two seeds. tied: memory in MiB of each tied trial."""
    candidates = tuple(
        Candidate(
            trial=trial, params={}, search_value=0.5, seeds=(1, 2), values=(0.3, 0.3), mean=0.3, interval=None,
            eliminated_after=None, reason="", metrics={}, efficiency={MEMORY: memory, "flops_per_sequence": 1.0},
        )
        for trial, memory in tied.items()
    )  # fmt: skip
    return Confirmation(
        study="s", objective="val_accuracy", direction="maximize", seeds=(1, 2), candidates=candidates, winner=winner,
        tied=tuple(tied), gap=0.2, retrainings=4, test=None,
    )  # fmt: skip


def test_limits_are_met_and_the_confirmed_winner_takes_precedence() -> None:
    records = [
        record(0, 0.3, 1.0, **{THROUGHPUT: 50.0}),
        record(1, 0.4, 3.0, **{THROUGHPUT: 20.0}),
        record(2, 0.9, 9.0),
    ]
    (small,) = choose("s", records, ACCURACY, request=ExportRequest(max_memory_mib=3.0))
    assert small.trial == 1
    request = ExportRequest(max_memory_mib=3.0, min_throughput=30)
    (fast,) = choose("s", records, ACCURACY, request=request)
    assert (fast.trial, fast.rule) == (0, "limits")
    assert fast.limits == {"max_memory_mib": 3.0, "min_throughput": 30}
    assert "train_sequences_per_second >= 30" in fast.text
    (confirmed,) = choose("s", records, ACCURACY, confirmation=confirmation(1, {1: 3.0}))
    assert (confirmed.trial, confirmed.rule) == (1, "confirmed")
    assert confirmed.text == "confirmed mean over 2 fresh seeds"


@pytest.mark.parametrize(
    ("tied", "words"),
    [
        ({1: 3.0, 2: 9.0}, "confirmed mean over 2 fresh seeds, the cheapest of 2 tied"),
        ({1: 3.0, 2: 3.0}, "confirmed mean over 2 fresh seeds, the best mean of 2 tied at equal cost"),
        (
            {1: 3.0, 2: 3.0, 4: 9.0},
            "confirmed mean over 2 fresh seeds, the best mean of the 2 cheapest of 3 tied",
        ),
    ],
)
def test_tie_at_equal_cost_is_not_described_as_cheapest(tied: dict[int, float], words: str) -> None:
    assert confirmation(1, tied).rule == words


def test_front_of_a_single_objective_adds_memory() -> None:
    assert ranking.front_objectives(ACCURACY) == BOTH
    records = [record(0, 0.3, 1.0), record(1, 0.2, 2.0)]
    selections = choose("s", records, ACCURACY, request=ExportRequest(pareto=True))
    assert selections == [Selection(trial=0, rule="pareto", objectives=BOTH)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trial": 1, "pareto": True}, "trial and pareto exclude each other"),
        ({"trial": 1, "max_memory_mib": 3}, "trial and limits exclude each other"),
        ({"max_memory_mib": 0}, "max_memory_mib"),
        ({"min_throughput": math.inf}, "min_throughput"),
        ({"trial": -1}, "trial"),
        ({"tria": 1}, "tria: unknown key"),
    ],
)
def test_invalid_request_error_names_its_keys(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        export_request(**values)


@pytest.mark.parametrize(
    ("records", "arguments", "words"),
    [
        ([], {}, ["no trial that reached the full budget", "resume it"]),
        ([record(0, 0.1, outcome="pruned")], {}, ["1 trials so far"]),
        (
            [record(0, 0.9, 9.0, excess=4.0), record(1, 0.1, 6.0, excess=1.0)],
            {},
            ["train_memory_mib_per_sequence <= 5", "trial 1 is nearest", "6"],
        ),
        (
            [record(0, 0.9, 9.0), record(1, 0.1, 6.0)],
            {"request": ExportRequest(max_memory_mib=2)},
            ["<= 2", "trial 1 is nearest", "6"],
        ),
        (
            [record(0, 0.9)],
            {"request": ExportRequest(min_throughput=1.0)},
            ["has measured train_sequences_per_second"],
        ),
        ([record(0, 0.9)], {"request": ExportRequest(trial=7)}, ["no trial 7", "0 to 0"]),
        ([record(0, 0.9, outcome="diverged")], {"request": ExportRequest(trial=0)}, ["trial 0 is diverged"]),
    ],
)
def test_error_explains_why_no_trial_can_be_chosen(
    records: list[TrialRecord], arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as raised:
        choose("s", records, ACCURACY, constraints=CONSTRAINT, **arguments)
    for word in words:
        assert word in str(raised.value)
    if not arguments:
        with pytest.raises(InputError):
            choose("s", records, ACCURACY, CONSTRAINT, ExportRequest(pareto=True))


@given(
    st.builds(
        record,
        st.integers(0, 9),
        st.floats(allow_nan=False),
        excess=st.floats(allow_nan=False),
        outcome=st.sampled_from(["complete", "pruned"]),
    )
)
def test_records_round_trip_through_strict_json(original: TrialRecord) -> None:
    text = json.dumps(original.to_json(), allow_nan=False)
    assert TrialRecord.from_json(json.loads(text)) == original


def test_non_finite_value_ranks_last() -> None:
    assert ranking.best({0: {"val_accuracy": math.nan}, 1: {"val_accuracy": 0.1}}, ACCURACY) == 1
