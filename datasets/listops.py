"""ListOps (Nangia & Bowman 2018, as in the Long Range Arena): nested MIN, MAX, MED, SM over digits, 10 classes.

Rows come from the release's TSV files, from copies in other forms, or from `listops_generator`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import IO, ClassVar

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.errors import DataError
from proxytune.datasets.listops_generator import CLOSE_ID, OPERATORS, TOKEN_IDS, TOKENS, Grammar, generate
from proxytune.datasets.packed import PACKED_FORMS, is_packed, packed_layouts, read_packed
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.sources import Layout, Source
from proxytune.datasets.tables import read_table
from proxytune.datasets.task import PADDING_ID, Rows, TaskInfo, padded_length

VOCAB_SIZE = len(TOKENS) + 1
NUM_CLASSES = 10

# The reader shrinks operators to one byte each (none of ASCII), then maps every other byte of "( ( [MAX 2 ) ..."
# to an id.
_OPERATOR_BYTES = {operator: index for index, operator in enumerate(OPERATORS, 128)}
_UNKNOWN = 255
_BYTE_TO_ID = np.full(256, _UNKNOWN, np.uint8)
_BYTE_TO_ID[[ord("("), ord(")")]] = PADDING_ID  # dropped
_BYTE_TO_ID[[ord("]"), ord("X")]] = CLOSE_ID  # the official tokenizer renames ] to X
_BYTE_TO_ID[ord("0") : ord("9") + 1] = range(TOKEN_IDS["0"], TOKEN_IDS["9"] + 1)
_BYTE_TO_ID[list(_OPERATOR_BYTES.values())] = [TOKEN_IDS[operator] for operator in _OPERATOR_BYTES]

_ROWS_PER_BLOCK = 4096


def encode(source: bytes) -> NDArray[np.uint8]:
    """Token ids of an official source, parentheses dropped; raises DataError on any other symbol."""
    text = source.strip()
    for operator in OPERATORS:
        text = text.replace(operator.encode(), bytes([_OPERATOR_BYTES[operator]]))
    if b" " * 2 in text:
        text = b" ".join(text.split())
    symbols = np.frombuffer(text, np.uint8)
    ids = _BYTE_TO_ID[symbols[::2]]
    if not source.isascii() or (symbols[1::2] != ord(" ")).any() or (ids == _UNKNOWN).any():
        known = {*TOKENS, "X", "(", ")"}
        tokens = source.decode("utf-8", "replace").split(" ")
        unknown = next((token for token in tokens if token not in known), "")
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


_FOLDERS = (
    "lra_release/listops-1000",
    "lra_release/lra_release/listops-1000",
    "listops-1000",
    "listops",
    "datasets/lra_release/listops-1000",
    "raw_datasets/lra_release/lra_release/listops-1000",
    ".",
)
COLUMNS = (("Source", "source"), ("Target", "target"))
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
        columns=COLUMNS,
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

    @property
    def num_generated(self) -> int:
        """Train rows asked for, and both held-out splits."""
        num_train = (
            self.num_train if self.train_examples is None else min(self.num_train, self.train_examples)
        )
        return num_train + 2 * self.num_held_out

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
    table = read_table(stream, place, COLUMNS)
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
