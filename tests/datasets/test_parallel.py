"""The ordered map over processes: the same results as map, in order, also of endless items."""

import os
from functools import partial
from itertools import count, islice, repeat

import numpy as np
import pytest

from proxytune.datasets.listops_generator import Grammar, generate
from proxytune.datasets.parallel import process_map

GRAMMAR = Grammar(max_depth=3, max_arguments=5, min_length=8, max_length=129)


def test_results_come_in_order_and_endless_items_are_left():
    assert list(islice(process_map(partial(pow, 2), count()), 40)) == [2**number for number in range(40)]


def test_an_error_in_a_worker_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(process_map(partial(divmod, 1), [1, 0, 1]))


def test_workers_draw_the_same_rows_as_one_process():
    one, many = (
        [
            (rows.values[0].tobytes(), rows.labels.tolist())
            for rows in generate(3000, seed=2, grammar=GRAMMAR, mapper=mapper)
        ]
        for mapper in (map, process_map)
    )
    assert one == many
    assert sum(len(labels) for _, labels in one) == 3000
    assert np.concatenate([labels for _, labels in one]).max() == 9


def test_an_operating_system_error_of_the_function_is_its_own(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(FileNotFoundError):
        list(process_map(os.stat, ["/nowhere"]))


def test_leaving_while_a_large_result_is_written(monkeypatch):
    """A worker is in the middle of writing far more than a pipe holds."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    results = process_map(bytes, repeat(50_000_000))
    assert len(next(results)) == 50_000_000
    results.close()
