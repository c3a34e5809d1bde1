"""Pathfinder and Path-X (Linsley et al. 2018; Tay et al. 2021): do two discs lie on the same dashed snake?

Grey images of 32, 64 or 128 pixels a side as sequences of bytes. The Long Range Arena's scores are for the hard
split (14 dashes). No list of the official train, validation and test files was ever published: here a fixed draw
gives 80/10/10. Images are read from the release's folders with their metadata, or drawn by the same process.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.packed import PACKED_FORMS
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.pathfinder_canvas import settings
from proxytune.datasets.pathfinder_formats import FOLDERS, UNNAMED, pathfinder_formats
from proxytune.datasets.pathfinder_generator import draw_chunk
from proxytune.datasets.pictures import black_convention, shifted
from proxytune.datasets.shared_formats import NAMED
from proxytune.datasets.sources import NAMED_NPZ, NAMED_PICKLES, Format, Source
from proxytune.datasets.task import Rows, TaskInfo

CONTOUR_LENGTHS = {"easy": 6, "medium": 9, "hard": 14}
NUM_TRAIN, NUM_HELD_OUT = 160_000, 20_000
_IMAGES_PER_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class Pathfinder:
    """Pathfinder of 32 x 32 pixels: the release's folders or archive, ready-made ids, or generated."""

    train_examples: int | None = None
    difficulty: Literal["easy", "medium", "hard"] = "hard"
    black_is_padding: bool = True
    seed: int = 0

    name: ClassVar[str] = "pathfinder"
    version: ClassVar[int] = 1
    side: ClassVar[int] = 32
    max_length: ClassVar[int] = 32 * 32

    @property
    def formats(self) -> Sequence[Format]:
        """The release's images first, ready-made ids last."""
        return pathfinder_formats(self.side, self.difficulty)

    @property
    def generator(self) -> str | None:
        """The official process."""
        return f"official process, seed {self.seed}"

    @property
    def num_generated(self) -> int:
        """Train images asked for, and an eighth as many for each held-out split."""
        return sum(self._generated_splits().values())

    def _generated_splits(self) -> dict[str, int]:
        num_train = NUM_TRAIN if self.train_examples is None else min(NUM_TRAIN, self.train_examples)
        num_held_out = -(-num_train * NUM_HELD_OUT // NUM_TRAIN)
        return {"validation": num_held_out, "test": num_held_out, "train": num_train}

    def info(self, form: str | None = None) -> TaskInfo:
        """Two classes over 256 grey levels."""
        contour = CONTOUR_LENGTHS[self.difficulty]
        validation = "a fixed draw of 80/10/10 (no official list exists)"
        difficulty = f"{self.difficulty} ({FOLDERS[self.difficulty]}, {contour} dashes)"
        if form in (*PACKED_FORMS, UNNAMED, NAMED):
            validation = "as packed"
        if form in (UNNAMED, NAMED, NAMED_PICKLES, NAMED_NPZ):
            difficulty = "not named by the files"
        elif form is not None and form.startswith("generated"):
            validation = "drawn anew, an eighth of the train images"
        return TaskInfo(
            name=self.name,
            vocab_size=256 if self.black_is_padding else 257,
            max_length=self.max_length,
            num_classes=2,
            conventions={
                "tokens": "grey levels row by row; "
                + black_convention(black_is_padding=self.black_is_padding),
                "difficulty": difficulty,
                "validation": validation,
                "labels": "1 both discs on the same snake",
            },
        )

    def decode(self, ids: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The picture."""
        return (ids - (0 if self.black_is_padding else 1)).astype(np.uint8).reshape(self.side, self.side)

    def read(self, source: Source, mapper: Mapper) -> Iterator[tuple[str, Rows]]:
        """Images in the source's order, or newly drawn ones (validation and test first)."""
        if source.format is None:
            yield from self._generate(mapper)
        else:
            yield from source.format.read(self, source)

    def rows(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Rows:
        """Rows of grey images."""
        values = shifted(pixels.reshape(-1), black_is_padding=self.black_is_padding)
        return Rows((values,), (np.full(len(labels), self.max_length, np.int64),), labels)

    def _generate(self, mapper: Mapper) -> Iterator[tuple[str, Rows]]:
        """160,000/20,000/20,000 images; of fewer train examples, an eighth as many are held out for each split."""
        remaining = self._generated_splits()
        chunk = partial(
            draw_chunk,
            seed=self.seed,
            settings=settings(self.side, CONTOUR_LENGTHS[self.difficulty]),
            num_images=_IMAGES_PER_CHUNK,
        )
        for pixels, labels in mapper(chunk, range(-(-self.num_generated // _IMAGES_PER_CHUNK))):
            done = 0
            for split, wanted in remaining.items():
                taken = min(wanted, len(labels) - done)
                if taken:
                    yield split, self.rows(pixels[done : done + taken], labels[done : done + taken])
                    remaining[split] -= taken
                    done += taken


@dataclass(frozen=True, kw_only=True)
class Pathfinder64(Pathfinder):
    """Pathfinder of 64 x 64 pixels."""

    name: ClassVar[str] = "pathfinder64"
    side: ClassVar[int] = 64
    max_length: ClassVar[int] = 64 * 64


@dataclass(frozen=True, kw_only=True)
class PathX(Pathfinder):
    """Path-X: Pathfinder of 128 x 128 pixels, 16,384 tokens."""

    name: ClassVar[str] = "pathx"
    side: ClassVar[int] = 128
    max_length: ClassVar[int] = 128 * 128
