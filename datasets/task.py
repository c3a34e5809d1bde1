"""The interface of tasks, their properties (TaskInfo), and blocks of examples (Rows)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.errors import DataError
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.sources import Format, Source

SPLITS = ("train", "validation", "test")
PADDING_ID = 0


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """One task under one set of conventions; two runs are comparable only if these are equal.

    max_length is the padded length for which the model is built (a power of two). conventions lists every choice that
    affects scores: order of ids, truncation of examples, origin of the validation split.
    """

    name: str
    vocab_size: int
    max_length: int
    num_classes: int
    num_documents: int = 1
    splits: tuple[str, ...] = SPLITS
    conventions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """Consecutive examples of one split.

    values[d] are the concatenated token ids of document d of all rows, lengths[d] (rows,) their numbers per row; labels
    (rows,) are class indices. Most tasks have one document per row, retrieval has two.
    """

    values: tuple[NDArray[np.integer], ...]
    lengths: tuple[NDArray[np.int64], ...]
    labels: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, documents: Sequence[tuple[NDArray[np.integer], ...]], labels: Sequence[int]) -> "Rows":
        """Rows from one tuple of token arrays (one array per document) and one label per row."""
        columns = list(zip(*documents, strict=True))
        return cls(
            tuple(np.concatenate(column) for column in columns),
            tuple(np.array([len(document) for document in column], np.int64) for column in columns),
            np.array(labels, np.int64),
        )

    def __iter__(self) -> Iterator[tuple[tuple[NDArray[np.integer], ...], int]]:
        ends = [np.cumsum(lengths) for lengths in self.lengths]
        for row, label in enumerate(self.labels):
            documents = tuple(
                values[end[row] - lengths[row] : end[row]]
                for values, lengths, end in zip(self.values, self.lengths, ends, strict=True)
            )
            yield documents, int(label)

    def __getitem__(self, rows: slice) -> "Rows":
        start, stop, step = rows.indices(len(self))
        assert step == 1
        ends = [np.concatenate([[0], np.cumsum(lengths)]) for lengths in self.lengths]
        return Rows(
            tuple(values[end[start] : end[stop]] for values, end in zip(self.values, ends, strict=True)),
            tuple(lengths[start:stop] for lengths in self.lengths),
            self.labels[start:stop],
        )

    @classmethod
    def join(cls, blocks: "Sequence[Rows]") -> "Rows":
        """The rows of all blocks in order; at least one block."""
        return cls(
            tuple(map(np.concatenate, zip(*(block.values for block in blocks), strict=True))),
            tuple(map(np.concatenate, zip(*(block.lengths for block in blocks), strict=True))),
            np.concatenate([block.labels for block in blocks]),
        )

    def cut(self, max_length: int) -> "Rows":
        """Every document's first max_length tokens."""
        if all(lengths.max(initial=0) <= max_length for lengths in self.lengths):
            return self
        values = []
        for column, lengths in zip(self.values, self.lengths, strict=True):
            position = np.arange(len(column)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            values.append(column[position < max_length])
        return Rows(
            tuple(values), tuple(np.minimum(column, max_length) for column in self.lengths), self.labels
        )


def in_blocks(
    examples: Iterable[tuple[tuple[NDArray[np.integer], ...], int]], rows_per_block: int
) -> Iterator[Rows]:
    """The examples (documents, label) as Rows of at most rows_per_block."""
    remaining = iter(examples)
    while block := list(islice(remaining, rows_per_block)):
        yield Rows.of([documents for documents, _ in block], [label for _, label in block])


def whole_label(value: object) -> int:
    """A class label given as an integer, an integral float or its text. Raises DataError for any other value."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"label {str(value)[:20]!r} is not a number") from None
    if not number.is_integer():
        raise DataError(f"label {number} is not a whole number")
    if number < 0:
        raise DataError(f"label {number:.0f} is negative")
    if number >= 1 << 16:  # no task has as many classes; a -1 stored without its sign, for example
        raise DataError(f"label {number:.0f} is too large")
    return int(number)


def padded_length(max_length: int) -> int:
    """The protocol's padded length: the next power of two (2,000 -> 2,048; 4,000 -> 4,096)."""
    return 1 << (max_length - 1).bit_length()


class Task(Protocol):
    """A task with its options; implementations are frozen dataclasses whose fields are the options.

    version is part of the prepared data's address. It must be increased if the same source or seed gives other ids.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    @property
    def max_length(self) -> int:
        """Maximum number of tokens per document."""
        ...

    @property
    def train_examples(self) -> int | None:
        """Number of rows of the train split that are kept; None keeps all."""
        ...

    @property
    def formats(self) -> Sequence[Format]:
        """The supported formats of the task's files, most trusted first; empty if it is always generated."""
        ...

    @property
    def generator(self) -> str | None:
        """Description of the generator that is used without a root; None if there is none."""
        ...

    @property
    def num_generated(self) -> int:
        """Total number of rows that the generator draws; 0 if there is no generator."""
        ...

    def info(self, form: str | None = None) -> TaskInfo:
        """The TaskInfo with its conventions; form is that of the source."""
        ...

    def read(self, source: Source, mapper: Mapper) -> Iterator[tuple[str, Rows]]:
        """All rows, each block with the name of its split; blocks of different splits may alternate."""
        ...

    def decode(self, ids: NDArray[np.integer]) -> str | NDArray[np.uint8]:
        """A readable document: its text, or its picture (height, width) in grey levels."""
        ...
