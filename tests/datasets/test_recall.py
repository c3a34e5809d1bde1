"""Associative recall: rows against a slow parser of their text, splits, and the balance of values within a row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxytune.datasets import DataError, inspect, prepare, task_info
from proxytune.datasets.prepare import make_task
from proxytune.datasets.recall import NUM_VALUES, SIZES, Recall
from proxytune.datasets.sources import Source


def parse(text: str) -> tuple[dict[int, int], set[int]]:
    """The bindings and the queried keys of a decoded row; fails if a key has two values."""
    bindings: dict[int, int] = {}
    queried = set()
    for token in text.split():
        if token.endswith("?"):
            queried.add(int(token[:-1]))
        else:
            key, value = map(int, token.split("="))
            assert bindings.setdefault(key, value) == value
    return bindings, queried


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_label_is_the_value_of_every_queried_key(data):
    num_keys = data.draw(st.integers(NUM_VALUES, 40))
    task = Recall(
        num_keys=num_keys,
        max_length=data.draw(st.integers(2 * num_keys, 200)),
        num_queried=data.draw(st.integers(1, 6)),
    )
    num_bound = np.array(data.draw(st.lists(st.integers(1, num_keys), min_size=1, max_size=5)))
    rows = task.draw(np.random.default_rng(data.draw(st.integers(0, 2**32))), num_bound)
    assert len(rows) == len(num_bound)
    for ((tokens,), label), bound in zip(rows, num_bound, strict=True):
        assert len(tokens) == task.max_length
        assert 1 <= tokens.min() <= tokens.max() < task.info().vocab_size
        text = task.decode(tokens)
        assert task.encode(text.encode()).tolist() == tokens.tolist()
        assert text.count("=") == task.max_length // 2
        bindings, queried = parse(text)
        assert len(bindings) == bound
        assert 1 <= len(queried) <= task.num_queried
        assert {bindings[key] for key in queried} == {label}
        counts = np.bincount(list(bindings.values()), minlength=NUM_VALUES)
        assert counts.max() - counts.min() <= 1


def test_splits_have_the_documented_sizes_and_difficulty():
    blocks: dict[str, list] = {}
    task = Recall()
    for split, rows in task.read(Source("generated"), map):
        blocks.setdefault(split, []).append(rows)
    assert {split: sum(map(len, parts)) for split, parts in blocks.items()} == SIZES
    assert task.num_generated == sum(SIZES.values())

    def bound(split, number=300):
        return [len(parse(task.decode(tokens))[0]) for (tokens,), _ in blocks[split][0][:number]]

    assert set(bound("validation")) == set(bound("test")) == {task.num_keys}
    assert min(bound("train")) == 1
    assert max(bound("train")) == task.num_keys
    for parts in blocks.values():
        counts = np.bincount(np.concatenate([rows.labels for rows in parts]), minlength=NUM_VALUES)
        assert counts.min() > 0.8 * counts.mean()


def test_held_out_rows_do_not_depend_on_train_examples(tmp_path):
    small = prepare("recall", cache=tmp_path, mapper=map, train_examples=30)
    large = prepare("recall", cache=tmp_path, mapper=map, train_examples=1200)
    assert len(small.train) == 30
    assert len(large.train) == 1200
    assert small.records["validation"].content_sha256 == large.records["validation"].content_sha256
    for row in range(30):
        assert np.array_equal(small.train[row][0][0], large.train[row][0][0])


def test_inspect_shows_keys_and_values(tmp_path):
    prepared = prepare("recall", cache=tmp_path, mapper=map, train_examples=30, max_length=64)
    label, (text,) = inspect(prepared, tmp_path / "images").examples[0]
    bindings, queried = parse(text)
    assert {bindings[key] for key in queried} == {label}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_keys": 7}, "num_keys is 7, it must be at least 8"),
        ({"max_length": 63}, "at least twice num_keys"),
        (
            {"num_keys": 8000, "max_length": 16000},
            "num_keys is 8000, it must be at most 7281: ids have 16 bits",
        ),
    ],
)
def test_invalid_sizes_are_rejected(options, message):
    with pytest.raises(DataError, match=message):
        make_task("recall", **options)
    assert task_info("recall", num_keys=8, max_length=16).vocab_size == 73


@pytest.mark.parametrize("word", ["12?", "0=8", "3", "?", "3=", "=3", "3=3=3", "é?"])
def test_invalid_word_is_rejected(word: str) -> None:
    with pytest.raises(DataError, match="queries such as 7"):
        Recall(num_keys=12, max_length=32).encode(f"3? {word} 3=1".encode())
