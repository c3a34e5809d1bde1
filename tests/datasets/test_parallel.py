"""The ordered map over processes: the same results as map, in order, also for infinite items."""

import multiprocessing
import os
from functools import partial
from itertools import count, islice, repeat

import numpy as np
import pytest

from proxytune.datasets.listops_generator import Grammar, generate
from proxytune.datasets.parallel import process_map

GRAMMAR = Grammar(max_depth=3, max_arguments=5, min_length=8, max_length=129)


def test_results_are_ordered_for_infinite_items():
    assert list(islice(process_map(partial(pow, 2), count()), 40)) == [2**number for number in range(40)]


def test_exception_in_a_worker_is_raised_in_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(process_map(partial(divmod, 1), [1, 0, 1]))


def test_worker_processes_generate_the_same_rows_as_one_process():
    single, multiple = (
        [
            (rows.values[0].tobytes(), rows.labels.tolist())
            for rows in generate(3000, seed=2, grammar=GRAMMAR, mapper=mapper)
        ]
        for mapper in (map, process_map)
    )
    assert single == multiple
    assert sum(len(labels) for _, labels in single) == 3000
    assert np.concatenate([labels for _, labels in single]).max() == 9


def test_os_error_of_the_function_is_not_taken_for_a_killed_worker(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(FileNotFoundError):
        list(process_map(os.stat, ["/nowhere"]))


def test_closing_the_iterator_during_a_large_write_does_not_hang(monkeypatch):
    """A worker is blocked while it writes a result that is larger than the pipe's buffer."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    results = process_map(bytes, repeat(50_000_000))
    assert len(next(results)) == 50_000_000
    results.close()
    assert multiprocessing.active_children() == []
