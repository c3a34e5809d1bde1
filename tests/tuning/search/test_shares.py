"""The rule by which studies share a cluster."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxytune.tuning.search.shares import Claim, explain, shares


def claim(study: str, **facts: int) -> Claim:
    values = {"priority": 0, "slots": 8, "demand": 100, "share": 0, "arrival": 0} | facts
    return Claim(study=study, name=f"study {study}", **values)


@st.composite
def claims(draw, *, same_slots: bool = False) -> list[Claim]:
    numbers = st.integers(0, 12)
    common = draw(st.integers(1, 12))
    return [
        claim(
            f"s{place}",
            priority=draw(st.integers(-1, 1)),
            slots=common if same_slots else draw(numbers),
            demand=draw(numbers),
            share=draw(numbers),
            arrival=draw(st.integers(0, 3)),
        )
        for place in range(draw(st.integers(1, 5)))
    ]


@given(claims())
def test_no_study_gets_more_than_it_can_use_and_all_together_no_more_than_the_cluster(found) -> None:
    got = shares(found)
    assert all(0 <= got[one.study] <= min(one.demand, one.slots) for one in found)
    assert sum(got[one.study] / one.slots for one in found if one.slots) <= 1 + 1e-9


@given(claims(same_slots=True))
def test_no_slot_is_idle_while_a_study_could_use_it(found) -> None:
    assert sum(shares(found).values()) == min(found[0].slots, sum(one.demand for one in found))


@given(claims(same_slots=True))
def test_a_priority_is_served_before_a_lower_one_and_equals_differ_by_one_slot_at_most(found) -> None:
    got = shares(found)
    for one in found:
        if got[one.study] < one.demand:  # it waits
            for other in found:
                if other.priority < one.priority:
                    assert got[other.study] == 0
                elif other.priority == one.priority:
                    assert got[other.study] <= got[one.study] + 1


@given(claims(), st.randoms())
def test_every_driver_computes_the_same_and_shares_stay_where_they_are(found, chance) -> None:
    got = shares(found)
    mixed = [replace(one, share=got[one.study]) for one in found]
    chance.shuffle(mixed)
    assert shares(mixed) == got


@given(claims(same_slots=True), st.data())
def test_a_study_that_asks_for_more_gets_no_less_and_one_that_leaves_takes_from_nobody(found, data) -> None:
    got = shares(found)
    one = data.draw(st.sampled_from(found))
    for change in ({"demand": one.demand + 1}, {"priority": one.priority + 1}):
        raised = [replace(other, **change) if other is one else other for other in found]
        assert shares(raised)[one.study] >= got[one.study]
    rest = shares([other for other in found if other is not one])
    assert all(rest[name] >= got[name] for name in rest)


def test_a_remainder_stays_where_it_is_else_goes_to_who_came_first() -> None:
    first, second = claim("b", slots=3, arrival=1), claim("a", slots=3, arrival=2)
    assert shares([first, second]) == {"b": 2, "a": 1}
    assert shares([first, replace(second, share=2)]) == {"b": 1, "a": 2}


def test_studies_of_trials_of_different_size_share_by_parts_of_the_cluster() -> None:
    small, large = claim("small", slots=8), claim("large", slots=2)
    assert shares([small, large]) == {"small": 4, "large": 1}


def test_who_waits_for_whom_and_why_is_one_line() -> None:
    found = [
        claim("low", slots=3),
        claim("even", slots=3),
        claim("high", slots=3, priority=2, demand=2),
        claim("done", slots=3, priority=9, demand=0),
    ]
    got = {"low": 0, "even": 1, "high": 2, "done": 0}
    assert shares([*found[:1], replace(found[1], share=1), *found[2:]]) == got
    assert explain(found, got, "high") == ""
    assert explain(found, got, "low") == (
        "0 of 3 usable slots at priority 0: waits for study high (priority 2); shares equally with study even"
    )
    assert explain([claim("low", slots=0)], {"low": 0}, "low") == ""
