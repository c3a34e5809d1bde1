"""What holds for every registered task; a new one is tested by being in the registry."""

import inspect as python_inspect
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
# Quick settings of the generated tasks; those of several seconds an image are drawn easy and few.
QUICK = {
    "listops": {"train_examples": 40},
    "listops-mini": {"train_examples": 40},
    "pathfinder": {"train_examples": 40, "difficulty": "easy"},
    "recall": {"train_examples": 40},
    "pathfinder64": {"train_examples": 8, "difficulty": "easy"},
    "pathx": {"train_examples": 8, "difficulty": "easy"},
}

SLOW = ("pathfinder64", "pathx")


def drawn(task, seed: int = 0):
    """A reader of random rows in the shape that the task's info promises."""
    info = task.info()

    def read(self, source, mapper):
        random = np.random.default_rng(seed)
        for split, number in (("train", 30), ("validation", 10), ("test", 10)):
            lengths = tuple(
                random.integers(1, task.max_length + 1, number) for _ in range(info.num_documents)
            )
            values = tuple(random.integers(1, info.vocab_size, each.sum()) for each in lengths)
            yield split, Rows(values, lengths, random.integers(0, info.num_classes, number))

    return read


@pytest.fixture(params=list(TASKS))
def name(request):
    return request.param


@pytest.fixture
def prepared(name, tmp_path, monkeypatch):
    monkeypatch.setattr(TASKS[name], "read", drawn(make_task(name)))
    monkeypatch.setattr(
        import_module("proxytune.datasets.prepare"), "find_source", lambda task, root, **_: Source("drawn")
    )
    return prepare(name, cache=tmp_path)


def test_the_registry_knows_tasks_by_their_names(name):
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


def test_every_option_but_sizes_shows_in_the_conventions(name):
    """Two runs that differ in an option differ in what they say they are."""
    task = make_task(name)
    others = {
        "num_keys": 16,
        "num_queried": 2,
        "validation": "test",
        "documents": "decoded",
        "difficulty": "easy",
        "black_is_padding": False,
    }
    for field in fields(task):
        if field.name in others:
            changed = make_task(name, **{field.name: others[field.name]})
            assert changed.info().conventions != task.info().conventions
    if "max_length" in {field.name for field in fields(task)}:
        assert make_task(name, max_length=100).info().conventions != task.info().conventions


def test_unknown_options_are_refused(name):
    with pytest.raises(DataError, match="has no option 'sead'"):
        task_info(name, sead=1)


def test_missing_data_name_the_task_and_what_was_tried(name, tmp_path):
    with pytest.raises(DataError) as error:
        find_source(make_task(name), tmp_path)
    assert name in str(error.value)
    assert len(str(error.value).splitlines()) <= 3
    assert len(str(error.value)) < 400


def test_no_generator_no_root_is_refused(name):
    task = make_task(name)
    if task.generator is None:
        with pytest.raises(DataError, match="set root"):
            find_source(task, None)
    else:
        assert find_source(task, None).form.startswith("generated")


def test_store_and_batches_give_back_what_was_read(name, prepared):
    expected = {}
    for split, rows in make_task(name).read(Source("drawn"), map):
        expected[split] = list(rows)
    for split in (prepared.train, prepared.validation):
        wanted = expected[split.path.stem]
        assert len(split) == len(wanted)
        for row, (documents, label) in enumerate(wanted):
            stored, stored_label = split[row]
            assert stored_label == label
            assert all(np.array_equal(one, other) for one, other in zip(stored, documents, strict=True))
    reopened = open_prepared(prepared.folder)
    assert reopened.info == prepared.info
    reopened.verify()


def test_batches_have_the_promised_shape(name, prepared):
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


def test_decoding_shows_a_document(name, prepared):
    task = make_task(name)
    decoded = task.decode(np.full(task.max_length, 1, np.uint16))
    assert isinstance(decoded, str) or decoded.shape[0] == decoded.shape[1]


@pytest.mark.parametrize(
    "generated", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in GENERATED]
)
def test_generated_tasks_are_tagged_and_repeatable(generated, tmp_path):
    if generated == "listops":  # its held-out splits alone are 4,000 rows of a thousand tokens
        pytest.skip("prepared in tests/datasets")
    one = prepare(generated, cache=tmp_path / "one", mapper=map, **QUICK[generated])
    other = prepare(generated, cache=tmp_path / "other", mapper=map, **QUICK[generated])
    assert one.info.conventions["source"].startswith("generated")
    assert one.fingerprint == other.fingerprint
    another = prepare(generated, cache=tmp_path / "one", mapper=map, seed=1, **QUICK[generated])
    assert another.fingerprint != one.fingerprint
