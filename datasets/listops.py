"""ListOps (Nangia & Bowman 2018, as in the Long Range Arena): nested MIN, MAX, MED, SM over digits, 10 classes.

The generator follows lra_benchmarks/data/listops.py: a tree node above the deepest level is an operator with
probability 0.25, with 2 to 10 arguments; trees with 500 < tokens < 2,000 are kept. The official one is never
seeded and its order depends on hashing, so the release cannot be regenerated bit for bit; this one draws the
same distribution from a seed, all trees of a chunk at once, level by level.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from itertools import count
from typing import IO, ClassVar

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.errors import DataError
from proxytune.datasets.packed import PACKED_FORMS, is_packed, packed_layouts, read_packed
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.sources import Layout, Source
from proxytune.datasets.tables import read_table
from proxytune.datasets.task import PADDING_ID, Rows, TaskInfo, padded_length

# Sorted, so that ids mean the same in every process (the official order comes from a Python set). 0 is padding.
TOKENS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "[MAX", "[MED", "[MIN", "[SM", "]")
TOKEN_IDS = {token: index + 1 for index, token in enumerate(TOKENS)}
VOCAB_SIZE = len(TOKENS) + 1
NUM_CLASSES = 10
OPERATORS = ("[MAX", "[MED", "[MIN", "[SM")
FIRST_OPERATOR_ID, CLOSE_ID = TOKEN_IDS["[MAX"], TOKEN_IDS["]"]

# The reader shrinks operators to one byte each, then maps every other byte of "( ( [MAX 2 ) ..." to an id.
_OPERATOR_BYTES = {operator: index for index, operator in enumerate(OPERATORS, 1)}
_UNKNOWN = 255
_BYTE_TO_ID = np.full(256, _UNKNOWN, np.uint8)
_BYTE_TO_ID[[ord("("), ord(")")]] = PADDING_ID  # dropped
_BYTE_TO_ID[[ord("]"), ord("X")]] = CLOSE_ID  # the official tokenizer renames ] to X
_BYTE_TO_ID[ord("0") : ord("9") + 1] = range(TOKEN_IDS["0"], TOKEN_IDS["9"] + 1)
_BYTE_TO_ID[list(_OPERATOR_BYTES.values())] = [TOKEN_IDS[operator] for operator in _OPERATOR_BYTES]

_TREES_PER_CHUNK = 16_384
_ROWS_PER_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """The distribution of expressions; the defaults are the official release's.

    max_depth counts levels of the tree, leaves included. An expression is kept when
    min_length < tokens < max_length, both strict; parentheses are no tokens.
    """

    max_depth: int = 10
    max_arguments: int = 10
    operator_probability: float = 0.25
    min_length: int = 500
    max_length: int = 2000


def encode(source: bytes) -> NDArray[np.uint8]:
    """Token ids of an official source, parentheses dropped; raises DataError on any other symbol."""
    text = source.strip()
    for operator in OPERATORS:
        text = text.replace(operator.encode(), bytes([_OPERATOR_BYTES[operator]]))
    if b" " * 2 in text:
        text = b" ".join(text.split())
    symbols = np.frombuffer(text, np.uint8)
    ids = _BYTE_TO_ID[symbols[::2]]
    if (symbols[1::2] != ord(" ")).any() or (ids == _UNKNOWN).any():
        known = {*TOKENS, "X", "(", ")"}
        unknown = next(token for token in source.decode("utf-8", "replace").split() if token not in known)
        raise DataError(f"ListOps has no token {unknown[:20]!r}; it knows {' '.join(TOKENS)} ( )")
    ids = ids[ids != PADDING_ID]
    if not len(ids):
        raise DataError("empty ListOps expression")
    return np.asarray(ids, np.uint8)


def decode(ids: NDArray[np.integer]) -> str:
    """The expression without parentheses, tokens separated by blanks; padding is left out."""
    return " ".join(
        TOKENS[index - 1] if index <= len(TOKENS) else f"<{index}>" for index in ids.tolist() if index
    )


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
        """The level's nodes in kept trees, and which nodes those were; `above` is that of the level above."""
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

    A tree that is already too long for the grammar is grown no further: it would be rejected whatever follows,
    so the distribution of the kept ones is untouched.
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
    """Top-down: write every node's token at its place; the trees stand end to end."""
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
    """The kept expressions among a fixed number of trees; the same (seed, chunk) gives the same rows anywhere."""
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
    """Distinct expressions in blocks, num_rows in all, the same for a seed whatever the mapper's workers."""
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


_FOLDERS = (
    "lra_release/listops-1000",
    "lra_release/lra_release/listops-1000",
    "listops-1000",
    "listops",
    "datasets/lra_release/listops-1000",
    "raw_datasets/lra_release/lra_release/listops-1000",
    ".",
)
LAYOUTS = (
    Layout(
        "official TSV",
        _FOLDERS,
        {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"},
        archives=("lra_release*", "listops*"),
    ),
    Layout(
        "renamed TSV",
        ("listops", "listops-1000", "data/listops", "."),
        {"train": "train.tsv", "validation": "val.tsv", "test": "test.tsv"},
    ),
    Layout(
        "Hugging Face Parquet",
        ("listops-1000", "listops", "listops-1000/data", "data", "."),
        {"train": "train*.parquet", "validation": "validation*.parquet", "test": "test*.parquet"},
    ),
    *packed_layouts("listops", "listops"),
)
# Ready-made ids come from vocabularies of unknown order; this is the size that the protocol embeds.
PACKED_VOCAB_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class ListOps:
    """The task as released: 96,000/2,000/2,000 rows from TSV files, or generated in that form without a root."""

    max_length: int = 2000
    train_examples: int | None = None
    seed: int = 0

    name: ClassVar[str] = "listops"
    version: ClassVar[int] = 1
    grammar: ClassVar[Grammar] = Grammar()
    num_train: ClassVar[int] = 96_000
    num_held_out: ClassVar[int] = 2_000

    def info(self, form: str | None = None) -> TaskInfo:
        """Ten classes over 15 tokens; the convention of the tokenizer since 2021-03, parentheses dropped."""
        packed = form in PACKED_FORMS
        tokens = "parentheses dropped; 0 padding, then sorted: " + " ".join(TOKENS)
        return TaskInfo(
            name=self.name,
            vocab_size=PACKED_VOCAB_SIZE if packed else VOCAB_SIZE,
            max_length=padded_length(self.max_length),
            num_classes=NUM_CLASSES,
            conventions={
                "tokens": "ids as packed, their order unknown" if packed else tokens,
                "length": f"first {self.max_length} tokens, padded to {padded_length(self.max_length)}",
                "validation": "official split",
            },
        )

    @property
    def layouts(self) -> Sequence[Layout]:
        """TSV first, ready-made ids last."""
        return LAYOUTS

    @property
    def generator(self) -> str | None:
        """The official process."""
        return f"official process, seed {self.seed}"

    def read(self, source: Source, mapper: Mapper) -> Iterator[tuple[str, Rows]]:
        """Rows of the files, or newly drawn ones."""
        if source.path is None:
            yield from self._generate(mapper)
        elif is_packed(source):
            yield from read_packed(source, num_documents=1, zeros_are_padding=True)
        else:
            seen: dict[bytes, str] = {}
            for split, name, stream in source.open():
                read = read_tsv if name.endswith(".tsv") else _read_table
                for rows in read(stream, source.place(name), seen):
                    yield split, rows

    def decode(self, ids: NDArray[np.integer]) -> str:
        """The expression; of ready-made ids only the lengths are to be trusted."""
        return decode(ids)

    def _generate(self, mapper: Mapper) -> Iterator[tuple[str, Rows]]:
        # Validation and test come first: they are the same whatever number of train examples is asked for.
        num_train = (
            self.num_train if self.train_examples is None else min(self.num_train, self.train_examples)
        )
        ends = {"validation": self.num_held_out, "test": 2 * self.num_held_out}
        ends["train"] = ends["test"] + num_train
        done = 0
        for rows in generate(ends["train"], seed=self.seed, grammar=self.grammar, mapper=mapper):
            for split, end in ends.items():
                part = rows[: max(end - done, 0)]
                if len(part):
                    yield split, part
                    done += len(part)
                    rows = rows[len(part) :]


@dataclass(frozen=True, kw_only=True)
class ListOpsMini(ListOps):
    """Short ListOps (9 to 37 tokens) for demos and tests, always generated; its accuracy is no LRA score.

    Two operator levels, so that a 2-layer model is well over the majority class (0.12) after 400 steps of 32.
    """

    max_length: int = 128

    name: ClassVar[str] = "listops-mini"
    grammar: ClassVar[Grammar] = Grammar(max_depth=3, max_arguments=5, min_length=8, max_length=129)
    num_train: ClassVar[int] = 50_000

    def info(self, form: str | None = None) -> TaskInfo:
        """As ListOps, and the grammar that makes it short."""
        info = super().info(form)
        grammar = self.grammar
        return replace(
            info,
            conventions={
                **info.conventions,
                "score": "no LRA score",
                "grammar": f"tree depth {grammar.max_depth}, 2 to {grammar.max_arguments} arguments, "
                f"{grammar.min_length} < tokens < {grammar.max_length}",
            },
        )

    @property
    def layouts(self) -> Sequence[Layout]:
        """None: it is always generated."""
        return ()


def read_tsv(stream: IO[bytes], place: str, seen: dict[bytes, str] | None = None) -> Iterator[Rows]:
    """Rows of one ListOps file in blocks; `place` names it in errors.

    Columns are Source and Target in either order as the header says; without a header the label comes first.
    Lines end in CRLF or LF. Raises DataError with the line's number on anything else, and on an expression that
    is in `seen` already (the release's 100,000 are distinct, so a second one means a leak or a bad copy).
    """
    label_first = True

    def pairs() -> Iterator[tuple[int, bytes, bytes]]:
        nonlocal label_first
        for number, line in enumerate(stream, 1):
            fields = line.rstrip(b"\r\n").split(b"\t")
            if number == 1 and sorted(fields) == [b"Source", b"Target"]:
                label_first = fields[0] == b"Target"
                continue
            if len(fields) != 2:
                raise DataError(
                    f"{place}, line {number}: {len(fields)} columns, a ListOps row has Source and Target"
                )
            yield (number, fields[1], fields[0]) if label_first else (number, fields[0], fields[1])

    return _rows(pairs(), place, {} if seen is None else seen)


def _read_table(stream: IO[bytes], place: str, seen: dict[bytes, str]) -> Iterator[Rows]:
    table = read_table(stream, place, (("Source", "source"), ("Target", "target")))
    return _rows(
        ((number, str(source).encode(), str(target).encode()) for number, (source, target) in table),
        place,
        seen,
    )


def _rows(pairs: Iterator[tuple[int, bytes, bytes]], place: str, seen: dict[bytes, str]) -> Iterator[Rows]:
    documents: list[tuple[NDArray[np.uint8], ...]] = []
    labels: list[int] = []
    num_rows = 0
    for number, source, label in pairs:
        where = f"{place}, line {number}"
        if len(label) != 1 or not label.isdigit():
            raise DataError(f"{where}: target {label[:20]!r} is no digit 0 to 9")
        try:
            tokens = encode(source)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        earlier = seen.setdefault(blake2b(tokens.tobytes(), digest_size=16).digest(), where)
        if earlier is not where:
            raise DataError(f"{where}: the same expression as {earlier}; remove the duplicate")
        documents.append((tokens,))
        labels.append(int(label))
        num_rows += 1
        if len(labels) == _ROWS_PER_BLOCK:
            yield Rows.of(documents, labels)
            documents, labels = [], []
    if documents:
        yield Rows.of(documents, labels)
    if not num_rows:
        raise DataError(f"{place}: no rows")
