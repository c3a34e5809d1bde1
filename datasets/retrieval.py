"""Retrieval (ACL Anthology Network): whether one of two papers cites the other; two documents of bytes, 2 classes.

Files are streamed line by line: five tab-separated columns without a header, label id1 id2 text1 text2, where a
label is a float and a text is a Python bytes literal (`b'...'`). The Long Range Arena feeds the literal itself,
quotes and backslashes included; `documents="decoded"` feeds the text that it stands for.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets import text
from proxytune.datasets.errors import DataError
from proxytune.datasets.packed import is_packed, packed_layouts, read_packed
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.sources import Layout, Source
from proxytune.datasets.task import Rows, TaskInfo, padded_length

_ROWS_PER_BLOCK = 256
_FOLDERS = (
    "lra_release/lra_release/tsv_data",
    "lra_release/tsv_data",
    "tsv_data",
    "aan",
    "retrieval",
    "data/aan",
    "raw_datasets/lra_release/lra_release/tsv_data",
    ".",
)
_PARTS = {"train": "train", "validation": "eval", "test": "test"}
IDS_ONLY = "AAN ids with texts beside"
LAYOUTS = (
    Layout(
        "AAN TSV",
        _FOLDERS,
        {split: f"new_aan_pairs.{name}.tsv" for split, name in _PARTS.items()},
        archives=("lra_release*",),
    ),
    *(
        Layout(
            IDS_ONLY,
            _FOLDERS,
            {
                **{split: f"new_aan_pairs.{name}.only_ids.tsv" for split, name in _PARTS.items()},
                "texts": f"{folder}/*.txt",
            },
        )
        for folder in ("papers_text", "texts")
    ),
    *packed_layouts("retrieval"),
)


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
    def layouts(self) -> Sequence[Layout]:
        """The original first, ready-made ids last."""
        return LAYOUTS

    @property
    def generator(self) -> str | None:
        """None: papers cannot be drawn."""
        return None

    def info(self, form: str | None = None) -> TaskInfo:
        """Two documents, two classes, over bytes."""
        kind: str = "as packed" if form is not None and form.endswith("pickles") else self.documents
        if form == IDS_ONLY:
            kind = "the files' own bytes"
        return TaskInfo(
            name=self.name,
            vocab_size=text.VOCAB_SIZE,
            max_length=padded_length(self.max_length),
            num_classes=2,
            num_documents=2,
            conventions={
                "tokens": "bytes; 0 padding, byte b = id b + 1",
                "documents": "bytes literal as it stands (official)" if kind == "literal" else kind,
                "length": f"first {self.max_length} bytes of each document, padded to {padded_length(self.max_length)}",
                "validation": "official split, all rows (the official code drops the last incomplete batch)",
                "labels": "1 one paper cites the other",
            },
        )

    def decode(self, ids: NDArray[np.integer]) -> str:
        """One document's text."""
        return text.decode(ids)

    def read(self, source: Source, mapper: Mapper) -> Iterator[tuple[str, Rows]]:
        """Rows in file order, a block of lines in memory at a time."""
        if is_packed(source):
            yield from read_packed(source, num_documents=2, zeros_are_padding=True)
            return
        texts = self._read_texts(source) if source.form == IDS_ONLY else None
        for part, name, stream in source.open(_PARTS):
            rows = self._pairs(stream, source.place(name), texts)
            yield from ((part, block) for block in _blocks(rows))

    def _read_texts(self, source: Source) -> dict[str, NDArray[np.uint16]]:
        return {
            PurePosixPath(name).stem: text.encode(stream.read(self.max_length))
            for _, name, stream in source.open(["texts"])
        }

    def _pairs(
        self, stream: IO[bytes], place: str, texts: dict[str, NDArray[np.uint16]] | None
    ) -> Iterator[tuple[tuple[NDArray[np.uint16], ...], int]]:
        num_columns = 5 if texts is None else 3
        number = 0
        for number, line in enumerate(stream, 1):
            where = f"{place}, line {number}"
            fields = line.rstrip(b"\r\n").split(b"\t" if texts is None else None)
            if len(fields) != num_columns:
                raise DataError(f"{where}: {len(fields)} columns, an AAN row has {num_columns}")
            if texts is None:
                documents = tuple(self._document(field, where) for field in fields[3:])
            else:
                ids = [field.decode("utf-8", "replace") for field in fields[1:]]
                absent = [one for one in ids if one not in texts]
                if absent:
                    raise DataError(f"{where}: no text for paper {absent[0]!r}")
                documents = tuple(texts[one] for one in ids)
            if not all(map(len, documents)):
                raise DataError(f"{where}: an empty document")
            yield documents, _label(fields[0], where)
        if not number:
            raise DataError(f"{place}: no rows")

    def _document(self, field: bytes, where: str) -> NDArray[np.uint16]:
        if self.documents == "literal":
            return text.encode(field[: self.max_length])
        try:
            value = ast.literal_eval(field.decode("utf-8"))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        if not isinstance(value, bytes):
            raise DataError(
                f"{where}: {field[:20]!r}... is no bytes literal; documents=literal reads it as it stands"
            )
        return text.encode(value[: self.max_length])


def _label(field: bytes, where: str) -> int:
    """0 or 1, written as an integer or a float."""
    try:
        label = float(field)
    except ValueError:
        label = float("nan")
    if label not in (0.0, 1.0):
        raise DataError(f"{where}: label {field[:20]!r} is neither 0 nor 1")
    return int(label)


def _blocks(rows: Iterator[tuple[tuple[NDArray[np.uint16], ...], int]]) -> Iterator[Rows]:
    documents: list[tuple[NDArray[np.uint16], ...]] = []
    labels: list[int] = []
    for pair, label in rows:
        documents.append(pair)
        labels.append(label)
        if len(labels) == _ROWS_PER_BLOCK:
            yield Rows.of(documents, labels)
            documents, labels = [], []
    if labels:
        yield Rows.of(documents, labels)
