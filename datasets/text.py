"""Text (IMDB reviews, Maas et al. 2011): sentiment from bytes, 2 classes, byte b = token id b + 1.

The Long Range Arena validates on the test set. Here 2,500 train reviews (half of each class, a fixed draw) are
the validation split, so that a search does not use the test set; `validation="test"` is the official choice. A copy's
own validation split is kept. Reviews are sorted by content before the draw, so that every form of the same reviews gives
the same splits.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.errors import DataError
from proxytune.datasets.packed import MEGA, NPZ, S4_CACHE, Packing, packed_formats, read_ids
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.shared_formats import NAMED, VALIDATION, hugging_face_formats
from proxytune.datasets.sources import NAMED_NPZ, Format, Source
from proxytune.datasets.tables import TABLE_SUFFIXES, read_table
from proxytune.datasets.task import Rows, TaskInfo, in_blocks, padded_length

VOCAB_SIZE = 257
NUM_VALIDATION = 2500
_LABELS = {"neg": 0, "pos": 1, "negative": 0, "positive": 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1}

ACL_IMDB, KAGGLE = "aclImdb", "Kaggle CSV"
_ROWS_PER_BLOCK = 1024
_UNKNOWN_IDS = (MEGA, S4_CACHE, NPZ, NAMED_NPZ)
COLUMNS = (("text", "review"), ("label", "sentiment"))
_PARTS = ("train", "validation", "test")

_Example = tuple[NDArray[np.integer], int]
_Splits = dict[str, list[_Example]]


def encode(text: bytes) -> NDArray[np.uint16]:
    """Token ids of a text's bytes; 0 is reserved for padding."""
    return np.frombuffer(text, np.uint8).astype(np.uint16) + np.uint16(1)


def decode(ids: NDArray[np.integer]) -> str:
    """The text without padding; a truncated character becomes the replacement character."""
    return (ids[ids > 0] - 1).astype(np.uint8).tobytes().decode("utf-8", "replace")


@dataclass(frozen=True, kw_only=True)
class Text:
    """IMDB reviews: aclImdb as folder or archive, Parquet, Arrow, CSV, or ready-made ids."""

    max_length: int = 4000
    train_examples: int | None = None
    validation: Literal["train", "test"] = "train"

    name: ClassVar[str] = "text"
    version: ClassVar[int] = 2
    num_generated: ClassVar[int] = 0

    @property
    def formats(self) -> Sequence[Format]:
        """The original first, ready-made ids last."""
        return FORMATS

    @property
    def generator(self) -> str | None:
        """None: there is no generator of reviews."""
        return None

    def info(self, form: str | None = None) -> TaskInfo:
        """Two classes over bytes."""
        unknown = form in _UNKNOWN_IDS
        return TaskInfo(
            name=self.name,
            vocab_size=512 if unknown else VOCAB_SIZE,
            max_length=padded_length(self.max_length),
            num_classes=2,
            conventions={
                "tokens": "ids as packed, their meaning unknown"
                if unknown
                else "bytes; 0 padding, byte b = id b + 1",
                "length": f"first {self.max_length} bytes, padded to {padded_length(self.max_length)}",
                "validation": f"{NUM_VALIDATION} train reviews at most, half of each class, a fixed draw"
                if self.validation == "train"
                else "the test split (official)",
                "labels": "0 negative, 1 positive",
            },
        )

    def decode(self, ids: NDArray[np.integer]) -> str:
        """The review's text."""
        return decode(ids)

    def read(self, source: Source, mapper: Mapper) -> Iterator[tuple[str, Rows]]:
        """Train in a fixed shuffled order, then validation and test."""
        assert source.format is not None
        yield from source.format.read(self, source)

    def divide(self, source: Source, splits: _Splits) -> Iterator[tuple[str, Rows]]:
        """The task's splits from the source's examples, independent of their order."""
        train, own, test = (sorted(splits.get(part, []), key=_order) for part in _PARTS)
        source.counts.update({"train": len(train), "test": len(test)})
        if own and list(map(_order, own)) == list(map(_order, test)):
            own = []  # as in the official code, the validation split equals the test split
        random = np.random.default_rng(0)
        if own and self.validation == "train":
            source.counts["validation"] = len(own)
            source.notes["validation"] = f"the copy's own split of {len(own):,} reviews"
        elif self.validation == "train":
            train, own = _drawn(train, random)
        else:
            if own:
                source.notes["left out"] = f"the copy's own validation split of {len(own):,} reviews"
            own = test
        train = [train[index] for index in random.permutation(len(train))]
        for split, examples in zip(_PARTS, (train, own, test), strict=True):
            if not examples:
                raise DataError(f"{source.path}: no reviews for the {split} split")
            blocks = in_blocks((((ids,), label) for ids, label in examples), _ROWS_PER_BLOCK)
            yield from ((split, rows) for rows in blocks)


def _order(example: _Example) -> tuple[int, bytes]:
    ids, label = example
    return label, ids.astype(">u2").tobytes()


def _drawn(train: list[_Example], random: np.random.Generator) -> tuple[list[_Example], list[_Example]]:
    """The remaining train examples, and the validation split drawn from train."""
    kept: list[_Example] = []
    held_out: list[_Example] = []
    for label in (0, 1):
        same = [example for example in train if example[1] == label]
        order = random.permutation(len(same))
        num_held_out = min(NUM_VALIDATION // 2, len(same) // 10)
        held_out += [same[index] for index in order[:num_held_out]]
        kept += [same[index] for index in order[num_held_out:]]
    return kept, held_out


def _of_splits(read: Callable[[Source], _Splits]) -> Callable[[Text, Source], Iterator[tuple[str, Rows]]]:
    return lambda task, source: task.divide(source, read(source))


def _read_folder(source: Source) -> _Splits:
    splits: _Splits = {}
    for part, name, stream in source.open():
        split, label = part.split()
        ids = encode(stream.read())
        if not len(ids):
            source.lacks(f"{source.place(name)}: empty review")
            continue
        splits.setdefault(split, []).append((ids, _LABELS[label]))
    return splits


def _read_files(source: Source) -> _Splits:
    splits: _Splits = {}
    for part, name, stream in source.open():
        splits.setdefault(part, []).extend(_examples(stream, source.place(name)))
    return splits


def _examples(stream: IO[bytes], place: str) -> Iterator[_Example]:
    if not place.lower().endswith(TABLE_SUFFIXES):
        for number, ((ids,), label) in enumerate(read_ids(stream, place, PACKING)):
            if label > 1:
                raise DataError(f"{place}, example {number}: label {label}, 0 and 1 are expected")
            yield ids, label
        return
    for number, (text, label) in read_table(stream, place, COLUMNS, _LABELS):
        if str(label).lower() not in _LABELS:
            raise DataError(f"{place}, row {number}: label {label!r} is none of {', '.join(_LABELS)}")
        ids = encode(str(text).encode())
        if not len(ids):
            raise DataError(f"{place}, row {number}: empty review")
        yield ids, _LABELS[str(label).lower()]


def _read_kaggle(source: Source) -> _Splits:
    (both,) = _read_files(source).values()
    source.notes["split"] = "the Kaggle file has none: first half train, second half test"
    return {"train": both[: len(both) // 2], "test": both[len(both) // 2 :]}


def _divided(task: Text, source: Source, blocks: Iterator[tuple[str, Rows]]) -> Iterator[tuple[str, Rows]]:
    splits: _Splits = {}
    for split, rows in blocks:
        if rows.labels.max(initial=0) > 1:
            raise DataError(f"{source.described(split)}: label {rows.labels.max()}, 0 and 1 are expected")
        splits.setdefault(split, []).extend((documents[0], label) for documents, label in rows)
    return task.divide(source, splits)


PACKING = Packing()
OFFICIAL_ROWS = {"train": 25_000, "test": 25_000}
_OFFICIAL: dict[str, Any] = {
    "rows": OFFICIAL_ROWS,
    "classes": {"train": (12_500, 12_500), "test": (12_500, 12_500)},
}
_TABLE: dict[str, Any] = {**_OFFICIAL, "tested": "made", "columns": COLUMNS}
FORMATS = (
    Format(
        name=ACL_IMDB,
        folders=("aclImdb", ".", "*/aclImdb", "imdb", "*/imdb", "*/*/aclImdb"),
        parts={
            f"{split} {label}": f"{folder}/{label}/*.txt"
            for split, folder in (("train", "train"), ("validation", VALIDATION), ("test", "test"))
            for label in ("neg", "pos")
        },
        optional=("validation neg", "validation pos"),
        per_class=True,
        archives=("aclimdb*", "imdb*"),
        read=_of_splits(_read_folder),
        tested="real",
        note="`train/unsup` is skipped; a `val` folder is used as the validation split.",
        **_OFFICIAL,
    ),
    *hugging_face_formats(("imdb",), optional=("validation",), read=_of_splits(_read_files), **_TABLE),
    Format(
        name="CSV files",
        folders=("imdb", ".", "data/imdb", "text"),
        parts={
            part: f"{split}.csv" for part, split in zip(_PARTS, ("train", VALIDATION, "test"), strict=True)
        },
        optional=("validation",),
        read=_of_splits(_read_files),
        tested="made",
        **_OFFICIAL,
    ),
    Format(
        name=KAGGLE,
        folders=(".", "imdb", "kaggle", "data"),
        parts={"all": "{IMDB Dataset,IMDB_Dataset,IMDB-Dataset}.csv"},
        archives=("archive.zip", "imdb*", "*imdb-dataset*"),
        read=_of_splits(_read_kaggle),
        tested="made",
        note="One file without a split: the first half is train, the second test.",
        rows=OFFICIAL_ROWS,
    ),
    *packed_formats(
        PACKING,
        pickle_name="text",
        folder_names=("imdb", "text"),
        rows=OFFICIAL_ROWS,
        s4_columns=(("input_ids",), ("label",)),
        adapt=_divided,
    ),
    Format(
        name=NAMED,
        folders=(),
        parts=dict.fromkeys(_PARTS, "*.{csv,tsv,parquet,arrow,pickle,npz}"),
        optional=("validation",),
        read=_of_splits(_read_files),
        tested="made",
        **_OFFICIAL,
    ),
)
