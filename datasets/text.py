"""Text (IMDB reviews, Maas et al. 2011): sentiment from bytes, 2 classes, byte b = token id b + 1.

The Long Range Arena validates on the test set. Here 2,500 train reviews (half of each class, a fixed draw) are
the validation split, so that a search never sees the test set; `validation="test"` is the official way.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.archives import member_names
from proxytune.datasets.errors import DataError
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.sources import Source, archives_under
from proxytune.datasets.task import Rows, TaskInfo, padded_length

VOCAB_SIZE = 257
LABELS = {"neg": 0, "pos": 1}
NUM_VALIDATION = 2500
_FOLDERS = ("aclImdb", ".", "imdb/aclImdb", "imdb")
_ARCHIVES = ("aclImdb*",)
_REVIEW = re.compile(r"(?:^|.*/)(train|test)/(neg|pos)/(\d+)_(\d+)\.txt")


def encode(text: bytes) -> NDArray[np.uint16]:
    """Token ids of a text's bytes; 0 stays free for padding."""
    return np.frombuffer(text, np.uint8).astype(np.uint16) + np.uint16(1)


def decode(ids: NDArray[np.integer]) -> str:
    """The text; padding is left out, a character cut in two shows as the replacement character."""
    return (ids[ids > 0] - 1).astype(np.uint8).tobytes().decode("utf-8", "replace")


@dataclass(frozen=True, kw_only=True)
class Text:
    """IMDB reviews in the official folder layout, as a folder or as the archive."""

    max_length: int = 4000
    train_examples: int | None = None
    validation: Literal["train", "test"] = "train"

    name: ClassVar[str] = "text"
    version: ClassVar[int] = 1

    def info(self) -> TaskInfo:
        """Two classes over bytes."""
        return TaskInfo(
            name=self.name,
            vocab_size=VOCAB_SIZE,
            max_length=padded_length(self.max_length),
            num_classes=2,
            conventions={
                "tokens": "bytes; 0 padding, byte b = id b + 1",
                "length": f"first {self.max_length} bytes, padded to {padded_length(self.max_length)}",
                "validation": f"{NUM_VALIDATION} train reviews, half of each class, a fixed draw"
                if self.validation == "train"
                else "the test split (official)",
                "labels": "0 negative, 1 positive",
            },
        )

    def find(self, root: Path | None) -> Source:
        """The folder aclImdb under root, or the archive; the first in which reviews lie."""
        if root is None:
            raise DataError(
                "text has no generator; give as root the folder that holds aclImdb or aclImdb_v1.tar.gz"
            )
        if not root.exists():
            raise DataError(
                f"root {root} does not exist; give the folder or archive that holds the text data"
            )
        tried = []
        for folder in _FOLDERS if root.is_dir() else ():
            base = root / folder
            places = [f"{split}/{label}" for split in ("train", "test") for label in LABELS]
            absent = [place for place in places if not (base / place).is_dir()]
            if not absent:
                names = [f"{place}/{path.name}" for place in places for path in (base / place).iterdir()]
                return _checked(Source("aclImdb folder", base.resolve(), _reviews(names)))
            tried.append(f"{folder}/{absent[0]}")
        for archive in archives_under(root, _ARCHIVES):
            return _checked(Source("aclImdb archive", archive.resolve(), _reviews(member_names(archive))))
        raise DataError(f"no text data under {root}; tried {', '.join([*tried, *_ARCHIVES])}")

    def read(self, source: Source, mapper: Mapper) -> Iterator[tuple[str, Rows]]:
        """Train in a fixed shuffled order (the files are sorted by class), then validation and test."""
        texts = {}
        for part, stream in source.open():
            texts[part] = encode(stream.read(self.max_length))
            if not len(texts[part]):
                raise DataError(f"{source.place(part)}: empty review")
        random = np.random.default_rng(0)
        held_out, train = [], []
        for label in LABELS:
            names = _ordered(texts, "train", label)
            shuffled = [names[index] for index in random.permutation(len(names))]
            num_held_out = min(NUM_VALIDATION // 2, len(names) // 10) if self.validation == "train" else 0
            held_out += shuffled[:num_held_out]
            train += shuffled[num_held_out:]
        train = [train[index] for index in random.permutation(len(train))]
        test = [name for label in LABELS for name in _ordered(texts, "test", label)]
        splits = {"train": train, "validation": held_out or test, "test": test}
        for split, names in splits.items():
            labels = [LABELS[name.split("/")[1]] for name in names]
            yield split, Rows.of([(texts[name],) for name in names], labels)


def _reviews(names: "Iterator[str] | list[str] | frozenset[str]") -> dict[str, str]:
    """Labelled reviews by `split/label/file`; unsup (unlabelled) and the other files are left out."""
    return {"/".join(name.split("/")[-3:]): name for name in names if _REVIEW.fullmatch(name)}


def _checked(source: Source) -> Source:
    for split in ("train", "test"):
        for label in LABELS:
            if not any(part.startswith(f"{split}/{label}/") for part in source.files):
                raise DataError(f"{source.path} has no review {split}/{label}/<id>_<rating>.txt")
    return source


def _ordered(texts: dict[str, NDArray[np.uint16]], split: str, label: str) -> list[str]:
    """Names in order of the review's id, the same for folder and archive."""
    names = [name for name in texts if name.startswith(f"{split}/{label}/")]
    return sorted(names, key=lambda name: int(name.split("/")[-1].split("_")[0]))
