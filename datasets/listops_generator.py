"""Generates ListOps expressions by the official process, all trees of a chunk at once, level by level.

It follows lra_benchmarks/data/listops.py: a tree node above the deepest level is an operator with probability
0.25, with 2 to 10 arguments; trees with 500 < tokens < 2,000 are kept. The official generator is not seeded and its
order depends on hashing, so the release cannot be reproduced exactly. This one draws from the same distribution with a
seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import count

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.parallel import Mapper
from proxytune.datasets.task import Rows

# Sorted, so that ids are the same in every process (the official order is that of a Python set). 0 is padding.
TOKENS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "[MAX", "[MED", "[MIN", "[SM", "]")
TOKEN_IDS = {token: index + 1 for index, token in enumerate(TOKENS)}
OPERATORS = ("[MAX", "[MED", "[MIN", "[SM")
FIRST_OPERATOR_ID, CLOSE_ID = TOKEN_IDS["[MAX"], TOKEN_IDS["]"]

_TREES_PER_CHUNK = 16_384


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """The distribution of expressions; the defaults are the official release's.

    max_depth is the number of levels of the tree, including leaves. An expression is kept if min_length < tokens <
    max_length; parentheses are not counted.
    """

    max_depth: int = 10
    max_arguments: int = 10
    operator_probability: float = 0.25
    min_length: int = 500
    max_length: int = 2000


@dataclass(frozen=True)
class _Level:
    """All nodes of one depth. Nodes are grouped by parent, in the parents' order.

    tree: index of the node's tree. parent: index into the level above. operator: index into OPERATORS, -1 for
    a leaf. digit: the leaf's digit. arguments: number of children, 0 for a leaf.
    """

    tree: NDArray[np.int32]
    parent: NDArray[np.int32]
    operator: NDArray[np.int8]
    digit: NDArray[np.int8]
    arguments: NDArray[np.int8]

    def of_trees(
        self, kept: NDArray[np.bool_], above: NDArray[np.bool_] | None
    ) -> "tuple[_Level, NDArray[np.bool_]]":
        """The level's nodes in kept trees, and the mask of those nodes; `above` is the mask of the level above."""
        mine = kept[self.tree]
        parent = self.parent[mine]
        if above is not None:
            parent = (np.cumsum(above, dtype=np.int32) - 1)[parent]
        return _Level(
            self.tree[mine], parent, self.operator[mine], self.digit[mine], self.arguments[mine]
        ), mine


def _draw_levels(
    random: np.random.Generator, num_trees: int, grammar: Grammar
) -> tuple[list[_Level], NDArray[np.int64]]:
    """Grow num_trees trees level by level; return the levels and each tree's length in tokens.

    A tree that is already too long for the grammar is not grown further. It would be rejected in any case, so the
    distribution of the kept trees is unchanged.
    """
    lengths = np.zeros(num_trees, np.int64)
    tree = np.arange(num_trees, dtype=np.int32)
    parent = tree
    levels = []
    for depth in range(1, grammar.max_depth + 1):
        num_nodes = len(tree)
        is_operator = (
            random.random(num_nodes, np.float32) <= grammar.operator_probability
            if depth < grammar.max_depth
            else np.zeros(num_nodes, np.bool_)
        )
        operator_nodes = np.flatnonzero(is_operator).astype(np.int32)
        operator = np.full(num_nodes, -1, np.int8)
        operator[operator_nodes] = random.integers(0, len(OPERATORS), len(operator_nodes), np.int8)
        arguments = np.zeros(num_nodes, np.int8)
        arguments[operator_nodes] = random.integers(
            2, grammar.max_arguments + 1, len(operator_nodes), np.int8
        )
        digit = random.integers(0, 10, num_nodes, np.int8)
        levels.append(_Level(tree, parent, operator, digit, arguments))

        lengths += np.bincount(tree, minlength=num_trees)
        lengths += np.bincount(tree[operator_nodes], minlength=num_trees)  # the closing bracket
        pending = np.bincount(tree[operator_nodes], arguments[operator_nodes], num_trees)
        too_long = lengths + pending >= grammar.max_length
        lengths[too_long] = grammar.max_length
        growing = operator_nodes[~too_long[tree[operator_nodes]]]
        parent = np.repeat(growing, arguments[growing])
        tree = tree[parent]
    return levels, lengths


def _evaluate(levels: list[_Level]) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Bottom-up: each node's length in tokens by level, and the value of each root."""
    sizes: list[NDArray[np.int64]] = []
    values = np.zeros(0, np.int64)
    for level in reversed(levels):
        size = np.ones(len(level.tree), np.int64)
        value = level.digit.astype(np.int64)
        nodes = np.flatnonzero(level.arguments)
        if len(nodes):
            arguments = level.arguments[nodes].astype(np.int64)
            first = np.cumsum(arguments) - arguments
            size[nodes] = 2 + np.add.reduceat(sizes[-1], first)
            group = np.repeat(np.arange(len(nodes)), arguments)
            ordered = np.sort(group * 10 + values) % 10  # the arguments of each node in ascending order
            middle = ordered[first + (arguments - 1) // 2] + ordered[first + arguments // 2]
            value[nodes] = np.choose(
                level.operator[nodes],
                [
                    ordered[first + arguments - 1],
                    middle // 2,
                    ordered[first],
                    np.add.reduceat(values, first) % 10,
                ],
            )
        sizes.append(size)
        values = value
    return sizes[::-1], values


def _linearise(levels: list[_Level], sizes: list[NDArray[np.int64]]) -> NDArray[np.uint8]:
    """Top-down: the tokens of all nodes in order; the trees are concatenated."""
    tokens = np.zeros(int(sizes[0].sum()), np.uint8)
    start = np.zeros(0, np.int64)
    for depth, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        before = np.cumsum(size) - size
        if depth == 0:
            start = before
        else:
            first = np.searchsorted(level.parent, level.parent)  # of the node's siblings
            start = start[level.parent] + 1 + before - before[first]
        nodes = level.operator >= 0
        tokens[start[~nodes]] = level.digit[~nodes] + TOKEN_IDS["0"]
        tokens[start[nodes]] = level.operator[nodes] + FIRST_OPERATOR_ID
        tokens[start[nodes] + size[nodes] - 1] = CLOSE_ID
    return tokens


def generate_chunk(chunk: int, *, seed: int, grammar: Grammar) -> Rows:
    """The kept expressions among a fixed number of trees; deterministic in (seed, chunk)."""
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(chunk,)))
    levels, lengths = _draw_levels(random, _TREES_PER_CHUNK, grammar)
    kept = (lengths > grammar.min_length) & (lengths < grammar.max_length)
    kept_levels: list[_Level] = []
    above = None
    for level in levels:
        kept_level, above = level.of_trees(kept, above)
        kept_levels.append(kept_level)
    sizes, values = _evaluate(kept_levels)
    return Rows((_linearise(kept_levels, sizes),), (sizes[0],), values)


def generate(num_rows: int, *, seed: int, grammar: Grammar, mapper: Mapper) -> Iterator[Rows]:
    """num_rows distinct expressions in blocks; deterministic in the seed, independent of the mapper's workers."""
    seen: set[bytes] = set()
    for rows in mapper(partial(generate_chunk, seed=seed, grammar=grammar), count()):
        documents, labels = [], []
        for (tokens,), label in rows:
            key = blake2b(tokens.tobytes(), digest_size=16).digest()
            if key not in seen and len(seen) < num_rows:
                seen.add(key)
                documents.append((tokens,))
                labels.append(label)
        if documents:
            yield Rows.of(documents, labels)
        if len(seen) == num_rows:
            return
