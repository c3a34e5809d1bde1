"""How studies share a cluster."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxytune.tuning.search.shares import Claim, explain, shares


def make_claim(study: str, **facts: int) -> Claim:
    values = {"priority": 0, "slots": 8, "demand": 100, "share": 0, "arrival": 0} | facts
    return Claim(study=study, name=f"study {study}", **values)


@st.composite
def claims(draw, *, same_slots: bool = False) -> list[Claim]:
    numbers = st.integers(0, 12)
    common = draw(st.integers(1, 12))
    return [
        make_claim(
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
def test_shares_exceed_neither_the_demand_nor_the_cluster(found) -> None:
    got = shares(found)
    assert all(0 <= got[claim.study] <= min(claim.demand, claim.slots) for claim in found)
    assert sum(got[claim.study] / claim.slots for claim in found if claim.slots) <= 1 + 1e-9


@given(claims(same_slots=True))
def test_no_slot_is_idle_while_a_study_can_use_it(found) -> None:
    assert sum(shares(found).values()) == min(found[0].slots, sum(claim.demand for claim in found))


@given(claims(same_slots=True))
def test_higher_priority_is_served_first_and_equal_ones_differ_by_one_slot(found) -> None:
    got = shares(found)
    for claim in found:
        if got[claim.study] < claim.demand:  # this study waits
            for other in found:
                if other.priority < claim.priority:
                    assert got[other.study] == 0
                elif other.priority == claim.priority:
                    assert got[other.study] <= got[claim.study] + 1


@given(claims(), st.randoms())
def test_shares_are_stable_and_independent_of_the_order(found, chance) -> None:
    got = shares(found)
    mixed = [replace(claim, share=got[claim.study]) for claim in found]
    chance.shuffle(mixed)
    assert shares(mixed) == got


@given(claims(same_slots=True), st.data())
def test_more_demand_or_fewer_studies_never_lower_a_share(found, data) -> None:
    got = shares(found)
    claim = data.draw(st.sampled_from(found))
    for change in ({"demand": claim.demand + 1}, {"priority": claim.priority + 1}):
        raised = [replace(other, **change) if other is claim else other for other in found]
        assert shares(raised)[claim.study] >= got[claim.study]
    rest = shares([other for other in found if other is not claim])
    assert all(rest[name] >= got[name] for name in rest)


def test_remainder_stays_with_its_holder_or_goes_to_the_first_arrival() -> None:
    first, second = make_claim("b", slots=3, arrival=1), make_claim("a", slots=3, arrival=2)
    assert shares([first, second]) == {"b": 2, "a": 1}
    assert shares([first, replace(second, share=2)]) == {"b": 1, "a": 2}


def test_studies_with_different_trial_sizes_share_by_cluster_fraction() -> None:
    small, large = make_claim("small", slots=8), make_claim("large", slots=2)
    assert shares([small, large]) == {"small": 4, "large": 1}


def test_explain_names_the_studies_waited_for_in_one_line() -> None:
    found = [
        make_claim("low", slots=3),
        make_claim("even", slots=3),
        make_claim("high", slots=3, priority=2, demand=2),
        make_claim("done", slots=3, priority=9, demand=0),
    ]
    got = {"low": 0, "even": 1, "high": 2, "done": 0}
    assert shares([*found[:1], replace(found[1], share=1), *found[2:]]) == got
    assert explain(found, got, "high") == ""
    assert explain(found, got, "low") == (
        "0 of 3 usable slots at priority 0: waits for study high (priority 2); shares equally with study even"
    )
    assert explain([make_claim("low", slots=0)], {"low": 0}, "low") == ""
