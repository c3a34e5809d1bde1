"""Text (IMDB reviews, Maas et al. 2011): sentiment from bytes, 2 classes, byte b = token id b + 1.

The Long Range Arena validates on the test set. Here 2,500 train reviews (half of each class, a fixed draw) are
the validation split, so that a search never sees the test set; `validation="test"` is the official way.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.errors import DataError
from proxytune.datasets.packed import MEGA, is_packed, packed_layouts, read_packed
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.sources import Layout, Source
from proxytune.datasets.tables import read_table
from proxytune.datasets.task import Rows, TaskInfo, padded_length

VOCAB_SIZE = 257
NUM_VALIDATION = 2500
_REVIEW = re.compile(r"(\d+)_\d+\.txt")
_LABELS = {"neg": 0, "pos": 1, "negative": 0, "positive": 1, "0": 0, "1": 1}

ACL_IMDB, KAGGLE = "aclImdb", "Kaggle CSV"
COLUMNS = (("text", "review"), ("label", "sentiment"))
LAYOUTS = (
    Layout(
        ACL_IMDB,
        ("aclImdb", ".", "imdb/aclImdb", "imdb"),
        {
            f"{split} {label}": f"{split}/{label}/*_*.txt"
            for split in ("train", "test")
            for label in ("neg", "pos")
        },
        archives=("aclImdb*",),
    ),
    Layout(
        "Hugging Face Parquet",
        ("imdb", "imdb/plain_text", "imdb/data", "plain_text", "data", "."),
        {"train": "train*.parquet", "test": "test*.parquet"},
        columns=COLUMNS,
    ),
    Layout("Arrow", ("imdb", "."), {"train": "*train.arrow", "test": "*test.arrow"}),
    Layout(KAGGLE, (".", "imdb", "kaggle"), {"all": "IMDB Dataset.csv"}),
    *packed_layouts("text", "imdb"),
)

_Example = tuple[NDArray[np.integer], int]


def encode(text: bytes) -> NDArray[np.uint16]:
    """Token ids of a text's bytes; 0 stays free for padding."""
    return np.frombuffer(text, np.uint8).astype(np.uint16) + np.uint16(1)


def decode(ids: NDArray[np.integer]) -> str:
    """The text; padding is left out, a character cut in two shows as the replacement character."""
    return (ids[ids > 0] - 1).astype(np.uint8).tobytes().decode("utf-8", "replace")


@dataclass(frozen=True, kw_only=True)
class Text:
    """IMDB reviews: aclImdb as folder or archive, Parquet, Arrow, the Kaggle CSV, or ready-made ids."""

    max_length: int = 4000
    train_examples: int | None = None
    validation: Literal["train", "test"] = "train"

    name: ClassVar[str] = "text"
    version: ClassVar[int] = 1
    num_generated: ClassVar[int] = 0

    @property
    def layouts(self) -> Sequence[Layout]:
        """The original first, ready-made ids last."""
        return LAYOUTS

    @property
    def generator(self) -> str | None:
        """None: reviews cannot be drawn."""
        return None

    def info(self, form: str | None = None) -> TaskInfo:
        """Two classes over bytes."""
        unknown = form == MEGA
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
        """Train in a fixed shuffled order (the files are sorted by class), then validation and test."""
        train, test = self._official_splits(source)
        held_out: list[_Example] = []
        random = np.random.default_rng(0)
        if self.validation == "train":
            kept: list[_Example] = []
            for label in (0, 1):
                same = [example for example in train if example[1] == label]
                order = random.permutation(len(same))
                num_held_out = min(NUM_VALIDATION // 2, len(same) // 10)
                held_out += [same[index] for index in order[:num_held_out]]
                kept += [same[index] for index in order[num_held_out:]]
            train = kept
        train = [train[index] for index in random.permutation(len(train))]
        splits = {
            "train": train,
            "validation": held_out if self.validation == "train" else test,
            "test": test,
        }
        for split, examples in splits.items():
            if not examples:
                raise DataError(f"{source.path}: no reviews for the {split} split")
            yield split, Rows.of([(ids,) for ids, _ in examples], [label for _, label in examples])

    def _official_splits(self, source: Source) -> tuple[list[_Example], list[_Example]]:
        if source.form == ACL_IMDB:
            return self._read_folder(source)
        splits: dict[str, list[_Example]] = {"train": [], "validation": [], "test": []}
        if is_packed(source):  # their validation split is the test split again
            for split, rows in read_packed(source, num_documents=1, zeros_are_padding=True):
                if not np.isin(rows.labels, (0, 1)).all():
                    raise DataError(
                        f"{source.path}: labels {rows.labels.min()} to {rows.labels.max()}, 0 and 1 expected"
                    )
                splits[split] += [(documents[0][: self.max_length], label) for documents, label in rows]
        elif source.form == KAGGLE:
            both = self._read_tables(source)["all"]
            splits["train"], splits["test"] = both[: len(both) // 2], both[len(both) // 2 :]
            source.notes["split"] = "the Kaggle file has none: first half train, second half test"
        else:
            splits |= self._read_tables(source)
        return splits["train"], splits["test"]

    def _read_folder(self, source: Source) -> tuple[list[_Example], list[_Example]]:
        """Reviews in order of class and id, so that a folder and an archive give the same."""
        found: dict[str, list[tuple[int, int, NDArray[np.integer]]]] = {"train": [], "test": []}
        for part, name, stream in source.open():
            split, label = part.split()
            review = _REVIEW.fullmatch(PurePosixPath(name).name)
            if review is None:
                continue
            ids = encode(stream.read(self.max_length))
            if not len(ids):
                raise DataError(f"{source.place(name)}: empty review")
            found[split].append((_LABELS[label], int(review[1]), ids))
        train, test = (
            [(ids, label) for label, _, ids in sorted(found[split], key=lambda one: one[:2])]
            for split in ("train", "test")
        )
        return train, test

    def _read_tables(self, source: Source) -> dict[str, list[_Example]]:
        examples: dict[str, list[_Example]] = {part: [] for part in source.files}
        for part, name, stream in source.open():
            place = source.place(name)
            for number, (text, label) in read_table(stream, place, COLUMNS):
                if str(label) not in _LABELS:
                    raise DataError(f"{place}, row {number}: label {label!r} is none of {', '.join(_LABELS)}")
                ids = encode(str(text).encode()[: self.max_length])
                if not len(ids):
                    raise DataError(f"{place}, row {number}: empty review")
                examples[part].append((ids, _LABELS[str(label)]))
        return examples
