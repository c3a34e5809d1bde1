"""Encoding of configurations as points of the unit cube, and decoding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from proxytune.tuning.search.encoding import INACTIVE, Encoding
from proxytune.tuning.spec.space import Domain, SearchSpace

SPACE = SearchSpace(
    {
        "kind": Domain(choice=("a", "b", "c")),
        "size": Domain(choice=(8, 16, 64)),
        "rate": Domain(low=1e-4, high=1e-1, log=True),
        "layers": Domain(low=1, high=5),
        "share": Domain(low=0.0, high=0.9, step=0.3),
        "extra": Domain(low=0.0, high=1.0, when={"kind": ("a", "b")}),
    },
    frozenset({"layers"}),
)
ENCODING = Encoding(SPACE, {})

configurations = st.fixed_dictionaries(
    {
        "kind": st.sampled_from("abc"),
        "size": st.sampled_from((8, 16, 64)),
        "rate": st.floats(1e-4, 1e-1),
        "layers": st.integers(1, 5),
        "share": st.sampled_from((0.0, 0.3, 0.6, 0.9)),
        "extra": st.floats(0, 1),
    }
)


@given(configurations)
def test_configuration_round_trips(params) -> None:
    point = np.array(ENCODING.encode(params))
    assert ((point >= 0) & (point <= 1)).all()
    decoded = ENCODING.decode(point)
    for key, value in params.items():
        assert decoded[key] == value if isinstance(value, str | int) else np.isclose(decoded[key], value)


@given(st.lists(st.floats(0, 1), min_size=ENCODING.size, max_size=ENCODING.size))
def test_any_point_decodes_to_a_configuration_of_the_space(point) -> None:
    decoded = ENCODING.decode(np.array(point))
    assert all(SPACE.domains[key].contains(value) for key, value in decoded.items())


def test_inactive_key_is_centered_and_choices_are_one_hot() -> None:
    params = {"kind": "c", "size": 16, "rate": 1e-2, "layers": 2, "share": 0.3}
    snapped = ENCODING.snap(np.array([ENCODING.encode(params | {"extra": 0.9})]))
    np.testing.assert_allclose(snapped[0], ENCODING.encode(params))
    assert ENCODING.encode(params)[-1] == INACTIVE
    assert ENCODING.encode(params)[:3] == [0, 0, 1]
