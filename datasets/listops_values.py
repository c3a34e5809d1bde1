"""Vectorised evaluation of ListOps expressions, by which every row that is read is checked."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.listops_generator import CLOSE_ID, FIRST_OPERATOR_ID, OPERATORS, TOKEN_IDS

_MAX, _MED, _MIN, _SUM = (OPERATORS.index(f"[{name}") for name in ("MAX", "MED", "MIN", "SM"))


@dataclass(frozen=True)
class Values:
    """value (rows,) is the value of each expression; well_formed (rows,): brackets match and every operator has arguments.

    value is undefined where well_formed is False.
    """

    value: NDArray[np.int64]
    well_formed: NDArray[np.bool_]


def evaluate(tokens: NDArray[np.integer], lengths: NDArray[np.int64]) -> Values:
    """The values of expressions given as concatenated token ids with lengths (rows,), each at least 1.

    Works from the deepest level up: at each level the arguments of an operator are the values between it and the
    next operator of that level. The time is proportional to tokens times levels.
    """
    num_rows = len(lengths)
    row = np.repeat(np.arange(num_rows), lengths)
    ends = np.cumsum(lengths)
    is_operator = (tokens >= FIRST_OPERATOR_ID) & (tokens < FIRST_OPERATOR_ID + len(OPERATORS))
    is_close = tokens == CLOSE_ID
    depth = np.cumsum(is_operator.astype(np.int32) - is_close.astype(np.int32))
    depth -= np.repeat(np.concatenate([[0], depth[ends - 1][:-1]]), lengths)
    well_formed = _fitting_brackets(depth, row, ends, lengths)
    usable = well_formed[row]
    value = np.zeros(len(tokens), np.int64)
    value[:] = tokens
    value -= TOKEN_IDS["0"]
    level = np.where(usable & ~is_close, depth, -1)  # of a digit; of an operator while it is open
    for number in range(int(level.max(initial=0)), 0, -1):
        here = np.flatnonzero(level == number)
        opens = is_operator[here]
        arguments = here[~opens]
        operators, counts = _nonempty(here[opens], arguments, well_formed, row)
        if len(operators):
            value[operators] = _apply(tokens[operators] - FIRST_OPERATOR_ID, value[arguments], counts)
        # An operator that has a value is an argument of the level above.
        level[operators] = number - 1
        is_operator[operators] = False
    return Values(value[ends - lengths], well_formed)


def _fitting_brackets(
    depth: NDArray[np.integer],
    row: NDArray[np.integer],
    ends: NDArray[np.integer],
    lengths: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Whether each row is one bracketed expression that opens at its first token and closes only at its last."""
    inner = np.ones(len(depth), np.bool_)
    inner[ends - 1] = False
    bad = np.where(inner, depth < 1, depth != 0)
    well_formed = np.ones(len(lengths), np.bool_)
    well_formed[row[bad]] = False
    return well_formed & (lengths > 1)


def _nonempty(
    operators: NDArray[np.int64],
    arguments: NDArray[np.int64],
    well_formed: NDArray[np.bool_],
    row: NDArray[np.integer],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The operators that have arguments, and their numbers; rows with an empty operator are marked as not well formed."""
    parent = np.searchsorted(operators, arguments) - 1
    counts = np.bincount(parent, minlength=len(operators))
    well_formed[row[operators[counts == 0]]] = False
    return operators[counts > 0], counts[counts > 0]


def _apply(
    operators: NDArray[np.integer], values: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Apply each operator (an index into OPERATORS) to its consecutive values."""
    first = np.cumsum(counts) - counts
    ordered = np.sort(np.repeat(np.arange(len(counts)), counts) * 10 + values) % 10
    middle = ordered[first + (counts - 1) // 2] + ordered[first + counts // 2]
    results = {
        _MAX: ordered[first + counts - 1],
        _MED: middle // 2,
        _MIN: ordered[first],
        _SUM: np.add.reduceat(values, first) % 10,
    }
    return np.choose(operators, [results[index] for index in range(len(OPERATORS))])
