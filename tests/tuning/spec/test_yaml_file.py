"""YAML of study files: accepted and rejected forms, and round trips."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.yaml_file import as_yaml, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", ["line 2", "duplicate"]),
        ("a: &x [1]\nb: *x\n", ["line 1", "aliases"]),
        ("a: [1\nb: 2\n", ["line 2"]),
        ("[" * 40 + "]" * 40, ["nested"]),
        ("- 1\n- 2\n", ["mapping"]),
        ("\x00", []),
        ("a: !!python/object/apply:os.system [ls]\n", ["line 1"]),
    ],
)
def test_invalid_yaml_is_rejected_with_its_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
    for word in [*words, "study.yaml"]:
        assert word in str(caught.value)


def test_yaml_numbers_are_read_as_written() -> None:
    values = parse_yaml("{a: 1e-4, b: 010, c: no, d: 1:30}", where="test")
    assert values == {"a": 1e-4, "b": 10, "c": "no", "d": "1:30"}


keys = st.builds(str.__add__, st.sampled_from("anxy"), st.text("enos_.", max_size=4))
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(keys, plain, max_size=5))
def test_yaml_round_trips(values: dict[str, Any]) -> None:
    assert parse_yaml(as_yaml(values), where="test") == values
