"""Retrieval (ACL Anthology Network): whether one of two papers cites the other; two documents of bytes, 2 classes.

Files are streamed line by line: five tab-separated columns without a header, label id1 id2 text1 text2, where a
label is a float and a text is a Python bytes literal (`b'...'`). The Long Range Arena uses the literal itself, including
quotes and backslashes; `documents="decoded"` uses the decoded text.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets import text
from proxytune.datasets.errors import DataError
from proxytune.datasets.packed import NPZ, PACKED_FORMS, S4_CACHE, Packing, packed_formats, read_ids
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.shared_formats import NAMED, SPLIT_NAMES
from proxytune.datasets.sources import NAMED_NPZ, Format, Source
from proxytune.datasets.task import Rows, TaskInfo, in_blocks, padded_length, whole_label

_ROWS_PER_BLOCK = 256
_NUM_COLUMNS = 5
IDS_ONLY = "AAN ids with texts beside"
OFFICIAL_ROWS = {"train": 147_086, "validation": 18_090, "test": 17_437}

_Pair = tuple[tuple[NDArray[np.integer], ...], int]


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """AAN pairs as released, as ids with a folder of texts, or as ready-made ids."""

    max_length: int = 4000
    train_examples: int | None = None
    documents: Literal["literal", "decoded"] = "literal"

    name: ClassVar[str] = "retrieval"
    version: ClassVar[int] = 1
    num_generated: ClassVar[int] = 0

    @property
    def formats(self) -> Sequence[Format]:
        """The original first, ready-made ids last."""
        return FORMATS

    @property
    def generator(self) -> str | None:
        """None: there is no generator of papers."""
        return None

    def info(self, form: str | None = None) -> TaskInfo:
        """Two documents, two classes, over bytes."""
        packed = form in PACKED_FORMS
        unknown = form in (S4_CACHE, NPZ, NAMED_NPZ)
        kind: str = "as packed" if packed else self.documents
        if form == IDS_ONLY:
            kind = "the files' own bytes"
        return TaskInfo(
            name=self.name,
            vocab_size=512 if unknown else text.VOCAB_SIZE,
            max_length=padded_length(self.max_length),
            num_classes=2,
            num_documents=2,
            conventions={
                "tokens": "ids as packed, their meaning unknown"
                if unknown
                else "bytes; 0 padding, byte b = id b + 1",
                "documents": "bytes literal as it stands (official)" if kind == "literal" else kind,
                "length": f"first {self.max_length} bytes of each document, padded to {padded_length(self.max_length)}",
                "validation": "the files' own split, all rows (the official code drops the last incomplete batch)",
                "labels": "1 one paper cites the other",
            },
        )

    def decode(self, ids: NDArray[np.integer]) -> str:
        """One document's text."""
        return text.decode(ids)

    def read(self, source: Source, mapper: Mapper) -> Iterator[tuple[str, Rows]]:
        """Rows in file order, with one block of lines in memory at a time."""
        assert source.format is not None
        yield from source.format.read(self, source)


def _read_files(task: Retrieval, source: Source) -> Iterator[tuple[str, Rows]]:
    for part, name, stream in source.open():
        place = source.place(name)
        if name.lower().endswith((".pickle", ".pkl", ".npz")):
            rows: Iterator[_Pair] = read_ids(stream, place, PACKING)
        else:
            rows = _pairs(task, source, stream, place)
        yield from ((part, block) for block in in_blocks(rows, _ROWS_PER_BLOCK))


def _pairs(task: Retrieval, source: Source, stream: IO[bytes], place: str) -> Iterator[_Pair]:
    for where, fields in _lines(stream, place, b"\t"):
        if fields[0].strip().lower() == b"label" and where.endswith("line 1"):
            continue  # a header; the release has none
        if len(fields) != _NUM_COLUMNS or any(map(_is_cut, fields[3:])):
            what = (
                f"{where}: {len(fields)} columns, an AAN row has {_NUM_COLUMNS} (label, two ids, two texts)"
            )
            if len(fields) == _NUM_COLUMNS:
                what = f"{where}: a text starts but does not end as a bytes literal; it is truncated"
            if len(fields) > _NUM_COLUMNS:
                raise DataError(what)
            source.lacks(what)
            continue
        documents = tuple(_document(task, field, where) for field in fields[3:])
        if not all(map(len, documents)):
            source.lacks(f"{where}: an empty document")
            continue
        yield documents, _label(fields[0], where)


def _lines(stream: IO[bytes], place: str, separator: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """(where, fields) of each line; blank last lines and a byte order mark are skipped."""
    number = blank = 0
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise DataError(f"{place}, line {blank}: a blank line between rows")
        yield f"{place}, line {number}", line.rstrip(b"\r\n").split(separator)
    if not number:
        raise DataError(f"{place}: no rows")


def _is_cut(field: bytes) -> bool:
    """Whether a text begins as a bytes literal but does not end as one."""
    quote = field[1:2]
    if field[:1] != b"b" or quote not in (b"'", b'"'):
        return False
    backslashes = len(field[:-1]) - len(field[:-1].rstrip(b"\\"))
    return len(field) < 3 or field[-1:] != quote or backslashes % 2 == 1


def _document(task: Retrieval, field: bytes, where: str) -> NDArray[np.uint16]:
    if task.documents == "literal":
        return text.encode(field[: task.max_length])
    try:
        value = ast.literal_eval(field.decode("utf-8"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, bytes):
        raise DataError(
            f"{where}: {field[:20]!r}... is not a bytes literal; documents=literal reads it unchanged"
        )
    return text.encode(value[: task.max_length])


def _label(field: bytes, where: str) -> int:
    """0 or 1, written as an integer or a float."""
    try:
        label = whole_label(field.decode("utf-8", "replace"))
    except DataError as error:
        raise DataError(f"{where}: {error}; 0 or 1 is expected") from None
    if label > 1:
        raise DataError(f"{where}: label {label} is neither 0 nor 1")
    return label


def _read_ids_only(task: Retrieval, source: Source) -> Iterator[tuple[str, Rows]]:
    texts = {
        PurePosixPath(name).stem: text.encode(stream.read()[: task.max_length])
        for _, name, stream in source.open(["texts"])
    }
    for part, name, stream in source.open(SPLIT_NAMES):
        pairs = _pairs_of_ids(source, stream, source.place(name), texts)
        yield from ((part, block) for block in in_blocks(pairs, _ROWS_PER_BLOCK))


def _pairs_of_ids(
    source: Source, stream: IO[bytes], place: str, texts: dict[str, NDArray[np.uint16]]
) -> Iterator[_Pair]:
    for where, fields in _lines(stream, place, None):
        if len(fields) != 3:
            raise DataError(f"{where}: {len(fields)} columns, an AAN row of ids has 3")
        ids = [field.decode("utf-8", "replace") for field in fields[1:]]
        absent = [one for one in ids if not len(texts.get(one, ()))]
        if absent:
            source.lacks(f"{where}: no text for paper {absent[0]!r}")
            continue
        yield tuple(texts[one] for one in ids), _label(fields[0], where)


PACKING = Packing(num_documents=2)
_FOLDERS = (
    "lra_release/lra_release/tsv_data",
    "lra_release/tsv_data",
    "tsv_data",
    "aan",
    "retrieval",
    "data/aan",
    "*/lra_release/lra_release/tsv_data",
    "*/lra_release/tsv_data",
    "*/tsv_data",
    "*/aan",
    ".",
)
_PARTS = {"train": "train", "validation": "{eval,validation,valid,val,dev}", "test": "test"}
_OFFICIAL: dict[str, Any] = {"rows": OFFICIAL_ROWS}
FORMATS = (
    Format(
        name="AAN TSV",
        folders=_FOLDERS,
        parts={split: f"new_aan_pairs.{name}.tsv" for split, name in _PARTS.items()},
        archives=("lra*", "aan*"),
        read=_read_files,
        tested="real",
        **_OFFICIAL,
    ),
    Format(
        name="renamed AAN TSV",
        folders=("aan", "retrieval", "data/aan", "."),
        parts={split: f"{name}.tsv" for split, name in _PARTS.items()},
        archives=("aan*",),
        read=_read_files,
        tested="made",
        **_OFFICIAL,
    ),
    Format(
        name=IDS_ONLY,
        folders=_FOLDERS,
        parts={
            **{split: f"new_aan_pairs.{name}.only_ids.tsv" for split, name in _PARTS.items()},
            "texts": "{papers_text,texts,papers}/*.txt",
        },
        archives=("lra*", "aan*"),
        read=_read_ids_only,
        tested="made",
        note="Needs the text of each paper in a file ID.txt; ids alone are rejected.",
        **_OFFICIAL,
    ),
    *packed_formats(
        PACKING,
        pickle_name="retrieval",
        folder_names=("aan", "retrieval"),
        rows=OFFICIAL_ROWS,
        s4_columns=(("input_ids1",), ("input_ids2",), ("label",)),
        mega=False,
        adapt=lambda task, source, rows: rows,
    ),
    Format(
        name="MEGA packed text",
        folders=("lra/aan", "aan", "data/lra/aan"),
        parts={
            "train": "input/train.src",
            "validation": "input/{valid,val,dev}.src",
            "test": "input/test.src",
        },
        archives=("lra*",),
        read=_read_files,
        tested="made",
        unreadable="both documents of a pair are in one line without a separator",
        note="Recognized but rejected: both documents of a pair are in one line.",
        **_OFFICIAL,
    ),
    Format(
        name=NAMED,
        folders=(),
        parts=dict.fromkeys(SPLIT_NAMES, "*.{tsv,pickle,npz}"),
        read=_read_files,
        tested="made",
        **_OFFICIAL,
    ),
)
