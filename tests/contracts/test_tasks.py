"""Contract tests that every registered task must pass."""

import inspect as python_inspect
import itertools
from dataclasses import fields, is_dataclass
from importlib import import_module

import numpy as np
import pytest
import torch

from proxytune.datasets import (
    TASKS,
    DataError,
    TrainBatches,
    evaluation_batches,
    open_prepared,
    prepare,
    task_info,
)
from proxytune.datasets.locating import find_source
from proxytune.datasets.prepare import make_task
from proxytune.datasets.sources import Source
from proxytune.datasets.task import Rows

GENERATED = [name for name in TASKS if make_task(name).generator is not None]
# Few examples per generated task; images that take seconds to generate use the easy setting.
SMALL_OPTIONS = {
    "listops": {"train_examples": 40},
    "listops-mini": {"train_examples": 40},
    "pathfinder": {"train_examples": 8, "difficulty": "easy"},
    "recall": {"train_examples": 40},
    "pathfinder64": {"train_examples": 8, "difficulty": "easy"},
    "pathx": {"train_examples": 8, "difficulty": "easy"},
}

SLOW_TASKS = ("pathfinder64", "pathx")


def random_reader(task, seed: int = 0):
    """A `read` method that returns random rows with the lengths, tokens and classes of the task's info."""
    info = task.info()

    def read(self, source, mapper):
        random = np.random.default_rng(seed)
        for split, number in (("train", 30), ("validation", 10), ("test", 10)):
            lengths = tuple(
                random.integers(1, task.max_length + 1, number) for _ in range(info.num_documents)
            )
            values = tuple(
                random.integers(1, info.vocab_size, document_lengths.sum()) for document_lengths in lengths
            )
            yield split, Rows(values, lengths, random.integers(0, info.num_classes, number))

    return read


@pytest.fixture(params=list(TASKS))
def name(request):
    return request.param


@pytest.fixture
def prepared(name, tmp_path, monkeypatch):
    monkeypatch.setattr(TASKS[name], "read", random_reader(make_task(name)))
    monkeypatch.setattr(
        import_module("proxytune.datasets.prepare"), "find_source", lambda task, root, **_: Source("random")
    )
    return prepare(name, cache=tmp_path)


def test_registry_key_is_the_task_name_and_task_is_documented(name):
    assert TASKS[name].name == name
    assert is_dataclass(TASKS[name])
    assert TASKS[name].__doc__
    assert python_inspect.getmodule(TASKS[name]).__doc__


def test_info_is_complete(name):
    info = task_info(name)
    assert info.max_length & (info.max_length - 1) == 0  # the padded length is a power of two
    assert info.max_length >= make_task(name).max_length
    assert info.num_classes >= 2
    assert info.num_documents in (1, 2)
    assert info.splits == ("train", "validation", "test")
    assert {"tokens", "validation"} <= info.conventions.keys()
    assert all(isinstance(text, str) and text for text in info.conventions.values())
    assert task_info(name, max_length=None, train_examples=None) == info


def test_options_except_sizes_are_recorded_in_the_conventions(name):
    """Runs with different options have different conventions."""
    task = make_task(name)
    non_default = {
        "num_keys": 16,
        "num_queried": 2,
        "validation": "test",
        "documents": "decoded",
        "difficulty": "easy",
        "black_is_padding": False,
    }
    for field in fields(task):
        if field.name in non_default:
            changed = make_task(name, **{field.name: non_default[field.name]})
            assert changed.info().conventions != task.info().conventions
    if "max_length" in {field.name for field in fields(task)}:
        assert make_task(name, max_length=100).info().conventions != task.info().conventions


def test_unknown_option_is_rejected(name):
    with pytest.raises(DataError, match="has no option 'sead'"):
        task_info(name, sead=1)


def test_missing_data_error_names_the_task_and_is_short(name, tmp_path):
    with pytest.raises(DataError) as error:
        find_source(make_task(name), tmp_path)
    assert name in str(error.value)
    assert len(str(error.value).splitlines()) <= 3
    assert len(str(error.value)) < 400


def test_task_without_root_requires_a_generator(name):
    task = make_task(name)
    if task.generator is None:
        with pytest.raises(DataError, match="set root"):
            find_source(task, None)
    else:
        assert find_source(task, None).form.startswith("generated")


def test_prepared_splits_store_the_source_rows_and_can_be_reopened(name, prepared):
    rows_of_split = {split: list(rows) for split, rows in make_task(name).read(Source("random"), map)}
    for split in (prepared.train, prepared.validation):
        expected = rows_of_split[split.path.stem]
        assert len(split) == len(expected)
        for row, (documents, label) in enumerate(expected):
            stored, stored_label = split[row]
            assert stored_label == label
            assert all(itertools.starmap(np.array_equal, zip(stored, documents, strict=True)))
    reopened = open_prepared(prepared.folder)
    assert reopened.info == prepared.info
    reopened.verify()


def test_batches_have_the_shape_and_ranges_of_the_task_info(name, prepared):
    info = prepared.info
    batches = [next(TrainBatches(prepared.train, batch_size=8, seed=0))]
    batches += evaluation_batches(prepared.validation, batch_size=4)
    for batch in batches:
        shape = (len(batch.labels), info.num_documents) if info.num_documents > 1 else (len(batch.labels),)
        assert batch.token_ids.shape[:-1] == shape
        assert batch.token_ids.shape == batch.mask.shape
        assert batch.token_ids.shape[-1] <= info.max_length
        assert batch.token_ids.max() < info.vocab_size
        assert batch.labels.max() < info.num_classes
        assert torch.equal(batch.mask, batch.token_ids != 0)


def test_decode_returns_text_or_a_square_image(name):
    task = make_task(name)
    decoded = task.decode(np.full(task.max_length, 1, np.uint16))
    assert isinstance(decoded, str) or decoded.shape[0] == decoded.shape[1]


@pytest.mark.parametrize(
    "generated",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW_TASKS else []) for name in GENERATED],
)
def test_generated_task_is_marked_generated_and_deterministic(generated, tmp_path):
    if generated == "listops":  # its validation and test splits have 4,000 rows of 1,000 tokens
        pytest.skip("prepared in tests/datasets")
    first = prepare(generated, cache=tmp_path / "first", mapper=map, **SMALL_OPTIONS[generated])
    second = prepare(generated, cache=tmp_path / "second", mapper=map, **SMALL_OPTIONS[generated])
    assert first.info.conventions["source"].startswith("generated")
    assert first.fingerprint == second.fingerprint
    other_seed = prepare(generated, cache=tmp_path / "first", mapper=map, seed=1, **SMALL_OPTIONS[generated])
    assert other_seed.fingerprint != first.fingerprint
