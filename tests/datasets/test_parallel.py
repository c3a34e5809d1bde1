"""The ordered map over processes: the same results as map, in order, also of endless items."""

from functools import partial
from itertools import count, islice

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
