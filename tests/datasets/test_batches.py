"""Batches: reproducible from a seed, exact on resume, each row once per epoch, little padding."""

import hashlib
import itertools

import numpy as np
import pytest
import torch

from proxytune.datasets import DataError, TrainBatches, evaluation_batches, prepare
from proxytune.datasets.batches import collate


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return prepare("listops-mini", cache=cache, train_examples=1000, mapper=map)


def keys(batch) -> list[bytes]:
    return [ids[ids != 0].numpy().tobytes() for ids in batch.token_ids]


def equal(a, b) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("token_ids", "mask", "labels"))


def test_collate_pads_rows_and_sets_mask(prepared):
    batch = collate(prepared.train, [3, 500])
    assert batch.token_ids.dtype == torch.int64
    assert batch.labels.dtype == torch.int64
    assert batch.mask.dtype == torch.bool
    assert batch.token_ids.shape[1] % 32 == 0
    for index, row in enumerate((3, 500)):
        (tokens,), label = prepared.train[row]
        assert batch.token_ids[index, : len(tokens)].tolist() == tokens.tolist()
        assert not batch.token_ids[index, len(tokens) :].any()
        assert batch.mask[index].sum() == len(tokens)
        assert batch.labels[index] == label
    assert collate(prepared.train, [3], full_padding=True).token_ids.shape == (1, prepared.info.max_length)


@pytest.mark.parametrize("order", ["uniform", "bucketed"])
def test_epoch_contains_each_row_once_and_drops_the_last_partial_batch(prepared, order):
    batches = TrainBatches(prepared.train, batch_size=32, seed=0, order=order)
    for _ in range(2):
        epoch = [key for batch in itertools.islice(batches, 31) for key in keys(batch)]
        assert len(epoch) == len(set(epoch)) == 992


def test_epochs_and_seeds_give_different_batches(prepared):
    def first_epochs(seed):
        return [
            tuple(keys(batch))
            for batch in itertools.islice(TrainBatches(prepared.train, batch_size=32, seed=seed), 62)
        ]

    epochs, other_epochs = first_epochs(0), first_epochs(1)
    assert first_epochs(0) == epochs
    assert not set(epochs) & set(other_epochs)
    assert epochs[:31] != epochs[31:]


@pytest.mark.parametrize("order", ["uniform", "bucketed"])
@pytest.mark.parametrize("done", [0, 5, 31, 40])
def test_resume_continues_at_the_next_batch(prepared, done, order):
    batches = TrainBatches(prepared.train, batch_size=32, seed=3, order=order)
    for _ in range(done):
        next(batches)
    resumed = TrainBatches(prepared.train, batch_size=32, seed=3, order=order)
    resumed.load_state_dict(batches.state_dict())
    for _ in range(40):
        assert equal(next(batches), next(resumed))


def test_state_dict_loads_with_weights_only(prepared, tmp_path):
    state = TrainBatches(prepared.train, batch_size=8, seed=1).state_dict()
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("uniform", "ef167bc68f372391652ec11b1d8d0b5278aac3d991f2ca6b3e0aa66ab429ace8"),
        ("bucketed", "c3d70e431161926f69a091065eb348ac9eaffbad0ddffcf9b7da1e962a3821b1"),
    ],
)
def test_seed_gives_same_batches_in_every_process(prepared, order, expected):
    """The digests were recorded in other processes. If they change, resumed trials see other batches."""
    batches = TrainBatches(prepared.train, batch_size=16, seed=9, order=order)
    rows = b"".join(key for batch in itertools.islice(batches, 70) for key in keys(batch))
    assert hashlib.sha256(rows).hexdigest() == expected


def test_global_random_state_is_unchanged(prepared):
    torch.manual_seed(0)
    np.random.seed(0)  # the test compares the global state
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    next(TrainBatches(prepared.train, batch_size=16, seed=9))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 16}, {"order": "uniform"}])
def test_state_of_other_settings_is_rejected(prepared, change):
    state = TrainBatches(prepared.train, batch_size=32, seed=0).state_dict()
    with pytest.raises(DataError, match="cannot resume with"):
        TrainBatches(prepared.train, **{"batch_size": 32, "seed": 0, **change}).load_state_dict(state)


@pytest.mark.parametrize("batch_size", [0, 1001])
def test_invalid_batch_size_is_rejected(prepared, batch_size):
    with pytest.raises(DataError, match="it must be 1 to 1000"):
        TrainBatches(prepared.train, batch_size=batch_size, seed=0)


def test_unknown_order_is_rejected(prepared):
    with pytest.raises(DataError, match="one of uniform, bucketed"):
        TrainBatches(prepared.train, batch_size=32, seed=0, order="random")


def test_evaluation_batches_contain_each_row_once(prepared):
    batches = list(evaluation_batches(prepared.validation, batch_size=300))
    assert [len(batch.labels) for batch in batches] == [300] * 6 + [200]
    assert len({key for batch in batches for key in keys(batch)}) == 2000
    assert (
        np.bincount(torch.cat([batch.labels for batch in batches])).tolist()
        == np.bincount(prepared.validation.labels).tolist()
    )


def test_bucketed_batches_group_lengths_but_are_not_sorted_by_length(prepared):
    """Bucketing sorts by length only within pools: the batches of an epoch are not ordered by length."""
    batches = TrainBatches(prepared.train, batch_size=32, seed=0)
    lengths = [batch.mask.sum(1).float().mean().item() for batch in itertools.islice(batches, 31)]
    assert lengths != sorted(lengths)
    spread = [batch.mask.sum(1).max() - batch.mask.sum(1).min() for batch in itertools.islice(batches, 31)]
    assert np.median(spread) <= 3  # of 9 to 37 tokens


def test_uniform_batches_are_consecutive_rows_of_one_permutation(prepared):
    """The order of the LRA protocol: one permutation per epoch, consecutive rows, independent of length."""
    batches = TrainBatches(prepared.train, batch_size=32, seed=7, order="uniform")
    for epoch in range(2):
        random = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(epoch,)))
        rows = random.permutation(1000)[:992].reshape(31, 32)
        for expected in rows:
            assert equal(next(batches), collate(prepared.train, expected))


def test_uniform_batches_mix_lengths(prepared):
    def spread(order):
        batches = itertools.islice(TrainBatches(prepared.train, batch_size=32, seed=0, order=order), 31)
        return np.median([batch.mask.sum(1).max() - batch.mask.sum(1).min() for batch in batches])

    assert spread("uniform") > 5 * spread("bucketed")
