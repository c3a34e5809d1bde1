"""Pathfinder and Path-X (Linsley et al. 2018; Tay et al. 2021): do two discs lie on the same dashed snake?

Grey images of 32, 64 or 128 pixels a side as sequences of bytes. The Long Range Arena's scores are for the hard
split (14 dashes). No list of the official train, validation and test files was ever published: here a fixed draw
gives 80/10/10. Images are read from the release's folders with their metadata, or drawn by the same process.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from proxytune.datasets.errors import DataError
from proxytune.datasets.image import black_convention, shifted
from proxytune.datasets.packed import PACKED_FORMS, is_packed, packed_layouts, read_packed
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.pathfinder_generator import draw_chunk, settings
from proxytune.datasets.sources import Layout, Source
from proxytune.datasets.task import SPLITS, Rows, TaskInfo

CONTOUR_LENGTHS = {"easy": 6, "medium": 9, "hard": 14}
FOLDERS = {"easy": "curv_baseline", "medium": "curv_contour_length_9", "hard": "curv_contour_length_14"}
NUM_TRAIN, NUM_HELD_OUT = 160_000, 20_000
_IMAGES_PER_CHUNK = 64
_ROWS_PER_BLOCK = 256


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
    def layouts(self) -> Sequence[Layout]:
        """The release's images first, ready-made ids last."""
        images, folder = f"pathfinder{self.side}", FOLDERS[self.difficulty]
        bases = ("lra_release/lra_release/", "lra_release/", "", "pathfinder/", "data/pathfinder/", "data/")
        release = Layout(
            "image folders",
            (*(f"{base}{images}/{folder}" for base in bases), folder),
            {"metadata": "metadata/*.npy", "images": "imgs/*/*.png"},
            archives=("lra_release*", f"{images}*"),
        )
        return (release, *packed_layouts(f"{images}-{folder}", f"{images}/{folder}"))

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
        if form in PACKED_FORMS:
            validation = "as packed"
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
                "difficulty": f"{self.difficulty} ({FOLDERS[self.difficulty]}, {contour} dashes)",
                "validation": validation,
                "labels": "1 both discs on the same snake",
            },
        )

    def decode(self, ids: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The picture."""
        return (ids - (0 if self.black_is_padding else 1)).astype(np.uint8).reshape(self.side, self.side)

    def read(self, source: Source, mapper: Mapper) -> Iterator[tuple[str, Rows]]:
        """Images in the source's order, or newly drawn ones (validation and test first)."""
        if source.path is None:
            yield from self._generate(mapper)
        elif is_packed(source):
            for split, rows in read_packed(source, num_documents=1, zeros_are_padding=False):
                values = shifted(rows.values[0], black_is_padding=self.black_is_padding)
                yield split, Rows((values,), rows.lengths, rows.labels)
        else:
            yield from self._read_folders(source)

    def _rows(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Rows:
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
                    yield split, self._rows(pixels[done : done + taken], labels[done : done + taken])
                    remaining[split] -= taken
                    done += taken

    def _read_folders(self, source: Source) -> Iterator[tuple[str, Rows]]:
        labels: dict[str, int] = {}
        for _, name, stream in source.open(["metadata"]):
            base = name.rsplit("metadata/", 1)[0]
            for image, label, where in read_metadata(stream, source.place(name)):
                if base + image in labels:
                    raise DataError(f"{where}: {image} is there twice")
                labels[base + image] = label
        images = set(source.files["images"])
        absent = sorted(labels.keys() - images)
        if absent:
            raise DataError(
                f"{source.place(absent[0])} is missing, its metadata are there ({len(absent)} such images)"
            )
        if images - labels.keys():
            source.notes["unlabelled"] = f"{len(images - labels.keys())} images without metadata left out"
        split_of = fixed_draw(labels)
        blocks: dict[str, tuple[list[NDArray[np.uint8]], list[int]]] = {split: ([], []) for split in SPLITS}
        empty = []
        for _, name, stream in source.open(["images"]):
            if name not in labels:
                continue
            content = stream.read()
            if not content:
                empty.append(name)
                continue
            pixels, block_labels = blocks[split_of[name]]
            pixels.append(self._picture(content, source.place(name)))
            block_labels.append(labels[name])
            if len(block_labels) == _ROWS_PER_BLOCK:
                yield split_of[name], self._rows(np.array(pixels), np.array(block_labels, np.int64))
                blocks[split_of[name]] = ([], [])
        for split, (pixels, block_labels) in blocks.items():
            if block_labels:
                yield split, self._rows(np.array(pixels), np.array(block_labels, np.int64))
        if empty:
            source.notes["skipped"] = f"{len(empty)} empty images, the first {empty[0]}"

    def _picture(self, content: bytes, place: str) -> NDArray[np.uint8]:
        try:
            pixels = np.asarray(Image.open(io.BytesIO(content), formats=("PNG",)).convert("L"))
        except (
            UnidentifiedImageError,
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ) as error:
            raise DataError(f"{place}: no readable PNG ({error})") from None
        if pixels.shape != (self.side, self.side):
            raise DataError(
                f"{place}: {pixels.shape[1]} x {pixels.shape[0]} pixels, {self.side} x {self.side} expected"
            )
        return pixels


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


def read_metadata(stream: IO[bytes], place: str) -> Iterator[tuple[str, int, str]]:
    """(image below the difficulty's folder, label, where) of one metadata file.

    The release's .npy files are plain text: folder, file, index in the batch, label, then how it was drawn. A new
    run of the official code writes true .npy files of strings with the same fields. Raises DataError with the line.
    """
    content = stream.read()
    if content.startswith(b"\x93NUMPY"):
        try:
            table = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{place}: {error}") from None
        if table.dtype.kind not in "US" or table.ndim not in (1, 2):
            raise DataError(
                f"{place}: an array of {table.dtype} and {table.ndim} dimensions, metadata are strings"
            )
        texts = [part.decode() if isinstance(part, bytes) else part for part in table.ravel().tolist()]
        width = table.shape[-1] if table.ndim == 2 else 1
        lines = [" ".join(texts[start : start + width]) for start in range(0, len(texts), width)]
    else:
        lines = content.decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        where = f"{place}, line {number}"
        fields = line.split()
        if len(fields) < 4:
            raise DataError(
                f"{where}: {len(fields)} fields, at least folder, file, index and label are expected"
            )
        if fields[3] not in ("0", "1"):
            raise DataError(f"{where}: label {fields[3][:20]!r} is neither 0 nor 1")
        folder, file = fields[:2]
        if ".." in folder.split("/") or "/" in file or folder.startswith("/"):
            raise DataError(f"{where}: {folder}/{file} leaves the data's folder")
        yield f"{folder}/{file}", int(fields[3]), where


def fixed_draw(images: Sequence[str] | dict[str, int]) -> dict[str, str]:
    """The split of each image: a draw over the sorted names, the same on every machine."""
    names = sorted(images)
    order = np.random.default_rng(0).permutation(len(names))
    ends = len(names) * 8 // 10, len(names) * 9 // 10
    return {
        names[index]: "train" if rank < ends[0] else "validation" if rank < ends[1] else "test"
        for rank, index in enumerate(order)
    }
