"""ListOps (Nangia & Bowman 2018, as in the Long Range Arena): nested MIN, MAX, MED, SM over digits, 10 classes.

Rows come from the release's TSV files, from copies in other forms, or from `listops_generator`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.errors import DataError
from proxytune.datasets.listops_generator import CLOSE_ID, OPERATORS, TOKEN_IDS, TOKENS, Grammar, generate
from proxytune.datasets.listops_values import evaluate
from proxytune.datasets.packed import MEGA, NPZ, PACKED_FORMS, Packing, packed_formats, read_ids
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.shared_formats import NAMED, SPLIT_NAMES, VALIDATION, hugging_face_formats
from proxytune.datasets.sources import NAMED_NPZ, Format, Source
from proxytune.datasets.tables import read_table
from proxytune.datasets.task import PADDING_ID, Rows, TaskInfo, in_blocks, padded_length, whole_label

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
    text = source.strip().replace(b"[SUM", b"[SM")
    for operator in OPERATORS:
        text = text.replace(operator.encode(), bytes([_OPERATOR_BYTES[operator]]))
    if b" " * 2 in text:
        text = b" ".join(text.split())
    symbols = np.frombuffer(text, np.uint8)
    ids = _BYTE_TO_ID[symbols[::2]]
    if not source.isascii() or (symbols[1::2] != ord(" ")).any() or (ids == _UNKNOWN).any():
        known = {*TOKENS, "X", "(", ")"}
        unknown = next((one for one in source.decode("utf-8", "replace").split(" ") if one not in known), "")
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


COLUMNS = (("Source",), ("Target",))
# Ready-made ids come from vocabularies of unknown order; these are the sizes that models embed.
PACKED_VOCAB_SIZE, MEGA_VOCAB_SIZE = 32, 512
OFFICIAL_ROWS = {"train": 96_000, "validation": 2_000, "test": 2_000}
OFFICIAL_CLASSES = {"all": (17042, 9047, 7591, 8507, 8988, 8435, 7743, 7285, 8628, 16734)}


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
        vocab_size = MEGA_VOCAB_SIZE if form in (MEGA, NPZ, NAMED_NPZ) else PACKED_VOCAB_SIZE
        validation = "the files' own split"
        if form is None or form.startswith("generated"):
            validation = "drawn with the train split, distinct from it"
        tokens = "parentheses dropped; 0 padding, then sorted: " + " ".join(TOKENS)
        return TaskInfo(
            name=self.name,
            vocab_size=vocab_size if packed else VOCAB_SIZE,
            max_length=padded_length(self.max_length),
            num_classes=NUM_CLASSES,
            conventions={
                "tokens": "ids as packed, their order unknown" if packed else tokens,
                "length": f"first {self.max_length} tokens, padded to {padded_length(self.max_length)}",
                "validation": validation,
            },
        )

    @property
    def formats(self) -> Sequence[Format]:
        """TSV first, ready-made ids last."""
        return FORMATS

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
        if source.format is None:
            yield from self._generate(mapper)
        else:
            yield from source.format.read(self, source)

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
    def formats(self) -> Sequence[Format]:
        """None: it is always generated."""
        return ()


def read_tsv(stream: IO[bytes], place: str, seen: dict[bytes, str] | None = None) -> Iterator[Rows]:
    """Rows of one ListOps file in blocks; `place` names it in errors.

    Columns are separated by tabs, or else by commas: Source and Target where the header (in any case) has them;
    without a header there are two, in either order. Lines end in CRLF or LF; a byte order mark and blank last
    lines are skipped. Raises DataError with the line's number
    on anything else, on an expression whose value is not its target, and on one that is in `seen` already (the
    release's 100,000 are distinct, so a second one means a leak or a bad copy).
    """
    return _checked_blocks(_pairs(stream, place), place, {} if seen is None else seen)


def _pairs(stream: IO[bytes], place: str) -> Iterator[tuple[int, bytes, bytes]]:
    """(line number, source, target) of every row."""
    separator, columns, width, blank = b"\t", (0, 1), 2, 0
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
            separator = b"\t" if b"\t" in line else b","
        fields = [field.strip(b'"') for field in line.rstrip(b"\r\n").split(separator)]
        if fields == [b""]:
            blank = blank or number
            continue
        if number == 1:
            names = [name.strip().lower() for name in fields]
            if b"source" in names and b"target" in names:
                columns, width = (names.index(b"source"), names.index(b"target")), len(names)
                continue
            columns = (0, 1) if b"[" in fields[0] else (1, 0)
        if blank or len(fields) != width:
            cut = "; it was cut" if len(fields) < width and not blank else ""
            raise DataError(
                f"{place}, line {blank or number}: {0 if blank else len(fields)} columns, "
                f"a ListOps row has Source and Target{cut}"
            )
        yield number, fields[columns[0]], fields[columns[1]]


def _read_table(stream: IO[bytes], place: str, seen: dict[bytes, str]) -> Iterator[Rows]:
    table = read_table(stream, place, COLUMNS)
    pairs = ((number, str(source).encode(), str(target).encode()) for number, (source, target) in table)
    return _checked_blocks(pairs, place, seen)


def _checked_blocks(
    pairs: Iterator[tuple[int, bytes, bytes]], place: str, seen: dict[bytes, str]
) -> Iterator[Rows]:
    num_rows = 0
    while block := list(islice(pairs, _ROWS_PER_BLOCK)):
        rows = Rows.of(*zip(*(_example(pair, place, seen) for pair in block), strict=True))
        _check_values(rows, [number for number, _, _ in block], place)
        num_rows += len(block)
        yield rows
    if not num_rows:
        raise DataError(f"{place}: no rows")


def _example(
    pair: tuple[int, bytes, bytes], place: str, seen: dict[bytes, str]
) -> tuple[tuple[NDArray[np.uint8], ...], int]:
    number, source, label = pair
    where = f"{place}, line {number}"
    try:
        target = whole_label(label.decode("utf-8", "replace"))
        if target >= NUM_CLASSES:
            raise DataError(f"label {target} is no digit 0 to 9")
        tokens = encode(source)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    earlier = seen.setdefault(blake2b(tokens.tobytes(), digest_size=16).digest(), where)
    if earlier is not where:
        raise DataError(f"{where}: the same expression as {earlier}; remove the duplicate")
    return (tokens,), target


def _check_values(rows: Rows, numbers: Sequence[int], place: str) -> None:
    """Raise DataError with the line of the first row that is cut or has another row's label."""
    values = evaluate(rows.values[0], rows.lengths[0])
    wrong = np.flatnonzero(~values.well_formed | (values.value != rows.labels))
    if not len(wrong):
        return
    row = int(wrong[0])
    why = (
        f"the expression has the value {values.value[row]}, its target is {rows.labels[row]}"
        if values.well_formed[row]
        else "the expression's brackets do not fit; the row is cut or damaged"
    )
    more = f" (and {len(wrong) - 1:,} more of {len(rows):,} rows)" if len(wrong) > 1 else ""
    raise DataError(f"{place}, line {numbers[row]}: {why}{more}")


def _read_files(task: ListOps, source: Source) -> Iterator[tuple[str, Rows]]:
    """TSV files, tables and packed ids, each by its suffix."""
    seen: dict[bytes, str] = {}
    for split, name, stream in source.open():
        place = source.place(name)
        if name.lower().endswith((".pickle", ".pkl", ".npz")):
            rows = in_blocks(read_ids(stream, place, PACKING), _ROWS_PER_BLOCK)
        elif name.lower().endswith((".parquet", ".arrow")):
            rows = _read_table(stream, place, seen)
        else:
            rows = read_tsv(stream, place, seen)
        yield from ((split, block) for block in rows)


PACKING = Packing(words=encode, check=_check_values)
_FOLDERS = (
    "lra_release/listops-1000",
    "lra_release/lra_release/listops-1000",
    "listops-1000",
    "listops",
    "data/listops",
    "*/lra_release/listops-1000",
    "*/lra_release/lra_release/listops-1000",
    "*/listops-1000",
    "*/listops",
    ".",
)
_OFFICIAL: dict[str, Any] = {"rows": OFFICIAL_ROWS, "classes": OFFICIAL_CLASSES}
_TABLE: dict[str, Any] = {**_OFFICIAL, "columns": COLUMNS, "read": _read_files, "tested": "made"}
FORMATS = (
    Format(
        name="official TSV",
        folders=_FOLDERS,
        parts={
            "train": "basic_train.tsv",
            "validation": f"basic_{VALIDATION}.tsv",
            "test": "basic_test.tsv",
        },
        archives=("lra*", "listops*"),
        read=_read_files,
        tested="real",
        note="Header in any case or absent, either column order, BOM, CRLF or LF, `[SUM` for `[SM`.",
        **_OFFICIAL,
    ),
    Format(
        name="renamed TSV",
        folders=_FOLDERS,
        parts={
            part: f"{name}.{{tsv,csv}}" for part, name in {**SPLIT_NAMES, "validation": VALIDATION}.items()
        },
        archives=("listops*",),
        read=_read_files,
        tested="made",
        **_OFFICIAL,
    ),
    *hugging_face_formats(("listops-1000", "listops"), **_TABLE),
    *packed_formats(
        PACKING,
        pickle_name="listops",
        folder_names=("listops",),
        rows=OFFICIAL_ROWS,
        s4_columns=(("input_ids",), ("Target",)),
        adapt=lambda task, source, rows: rows,
    ),
    Format(
        name=NAMED,
        folders=(),
        parts=dict.fromkeys(SPLIT_NAMES, "*.{tsv,csv,parquet,arrow,pickle,npz}"),
        read=_read_files,
        tested="real",
        **_OFFICIAL,
    ),
)
