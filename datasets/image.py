"""Image (CIFAR-10, Krizhevsky 2009): 32 x 32 grey pixels as a sequence of 1,024, 10 classes.

As in the Long Range Arena the last tenth of the train images is the validation split, and as in its PyTorch
code id 0 is a black pixel and padding at once, so black pixels are masked; `black_is_padding=False` shifts all
ids by one instead.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import UnidentifiedImageError

from proxytune.datasets import safe_pickle
from proxytune.datasets.errors import DataError
from proxytune.datasets.packed import is_packed, packed_layouts, read_packed
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.sources import Layout, Source
from proxytune.datasets.tables import read_table
from proxytune.datasets.task import Rows, TaskInfo

SIDE = 32
NUM_CLASSES = 10
PYTHON, BINARY = "CIFAR-10 python pickles", "CIFAR-10 binary"
COLUMNS = (("img", "image"), ("label",))
LAYOUTS = (
    Layout(
        PYTHON,
        ("cifar-10-batches-py", "cifar10/cifar-10-batches-py", "cifar/cifar-10-batches-py", "."),
        {"train": "data_batch_*", "test": "test_batch"},
        archives=("cifar-10-python*",),
    ),
    Layout(
        BINARY,
        ("cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "."),
        {"train": "data_batch_*.bin", "test": "test_batch.bin"},
        archives=("cifar-10-binary*",),
    ),
    Layout(
        "Hugging Face Parquet",
        ("cifar10", "cifar10/plain_text", "plain_text", "data", "."),
        {"train": "train*.parquet", "test": "test*.parquet"},
        columns=COLUMNS,
    ),
    *packed_layouts("image", "cifar10"),
)


def grey(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(rows, 3, pixels) red, green, blue to (rows, pixels), as TensorFlow does: floor(255.5 x luma of the unit range)."""
    weights = np.array([0.2989, 0.587, 0.114], np.float32)
    luma = np.tensordot(weights, planes.astype(np.float32) / np.float32(255), axes=(0, 1))
    return np.minimum(luma * np.float32(255.5), 255).astype(np.uint8)


def shifted(pixels: NDArray[np.integer], *, black_is_padding: bool) -> NDArray[np.integer]:
    """Token ids of pixels: themselves, or plus one so that 0 stays free."""
    return pixels if black_is_padding else pixels.astype(np.uint16) + np.uint16(1)


def black_convention(*, black_is_padding: bool) -> str:
    """How the convention is named in TaskInfo."""
    return (
        "pixel = id; black (0) is masked as padding (protocol)"
        if black_is_padding
        else "pixel + 1 = id; nothing is masked"
    )


@dataclass(frozen=True, kw_only=True)
class Image:
    """CIFAR-10 as python pickles or binary (folder or archive), Parquet, or ready-made ids."""

    train_examples: int | None = None
    black_is_padding: bool = True

    name: ClassVar[str] = "image"
    version: ClassVar[int] = 1
    num_generated: ClassVar[int] = 0
    max_length: ClassVar[int] = SIDE * SIDE

    @property
    def layouts(self) -> Sequence[Layout]:
        """The original first, ready-made ids last."""
        return LAYOUTS

    @property
    def generator(self) -> str | None:
        """None: photographs cannot be drawn."""
        return None

    def info(self, form: str | None = None) -> TaskInfo:
        """Ten classes over 256 grey levels."""
        return TaskInfo(
            name=self.name,
            vocab_size=256 if self.black_is_padding else 257,
            max_length=self.max_length,
            num_classes=NUM_CLASSES,
            conventions={
                "tokens": "grey levels row by row, 0.2989 R + 0.587 G + 0.114 B; "
                + black_convention(black_is_padding=self.black_is_padding),
                "validation": "last tenth of the train images in file order (45,000/5,000)",
            },
        )

    def decode(self, ids: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The picture."""
        return (ids - (0 if self.black_is_padding else 1)).astype(np.uint8).reshape(SIDE, SIDE)

    def read(self, source: Source, mapper: Mapper) -> Iterator[tuple[str, Rows]]:
        """Images in file order; an archive's batches are put in order of their names first."""
        if is_packed(source):
            for split, rows in read_packed(source, num_documents=1, zeros_are_padding=False):
                values = shifted(rows.values[0], black_is_padding=self.black_is_padding)
                yield split, Rows((values,), rows.lengths, rows.labels)
            return
        blocks: dict[str, list[tuple[str, Rows]]] = {"train": [], "test": []}
        for part, name, stream in source.open():
            if source.form == PYTHON and name.endswith(".bin"):
                continue
            planes, labels = self._read_file(source.form, stream, source.place(name))
            pixels = shifted(grey(planes), black_is_padding=self.black_is_padding)
            lengths = np.full(len(labels), self.max_length, np.int64)
            blocks[part].append((name, Rows((pixels.reshape(-1),), (lengths,), labels)))
        train, test = (
            Rows.join([rows for _, rows in sorted(blocks[part], key=lambda block: block[0])])
            for part in ("train", "test")
        )
        num_train = len(train) - len(train) // 10
        yield "train", train[:num_train]
        yield "validation", train[num_train:]
        yield "test", test

    def _read_file(
        self, form: str, stream: IO[bytes], place: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        if form == PYTHON:
            return _read_pickle(stream, place)
        if form == BINARY:
            return _read_binary(stream, place)
        planes, labels = [], []
        for number, (image, label) in read_table(stream, place, COLUMNS):
            planes.append(_read_picture(image, f"{place}, row {number}"))
            labels.append(label)
        return np.array(planes), np.array(labels, np.int64)


def _read_pickle(stream: IO[bytes], place: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = safe_pickle.load(stream, place)
    try:
        planes = safe_pickle.as_array(batch[b"data"])
        labels = safe_pickle.as_array(batch[b"labels"])
    except (KeyError, TypeError, DataError) as error:
        raise DataError(f"{place}: no CIFAR-10 batch, data and labels are expected ({error})") from None
    if planes.dtype != np.uint8 or planes.shape != (len(labels), 3 * SIDE * SIDE):
        raise DataError(
            f"{place}: data of shape {planes.shape} and type {planes.dtype}, {len(labels)} labels"
        )
    return planes.reshape(-1, 3, SIDE * SIDE), labels.astype(np.int64)


def _read_binary(stream: IO[bytes], place: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One label byte, then 3,072 bytes of planes, an image."""
    content = np.frombuffer(stream.read(), np.uint8)
    if not len(content) or len(content) % (1 + 3 * SIDE * SIDE):
        raise DataError(
            f"{place}: {len(content)} bytes are no whole number of images of {1 + 3 * SIDE * SIDE}"
        )
    rows = content.reshape(-1, 1 + 3 * SIDE * SIDE)
    return rows[:, 1:].reshape(-1, 3, SIDE * SIDE), rows[:, 0].astype(np.int64)


def _read_picture(image: object, where: str) -> NDArray[np.uint8]:
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        raise DataError(f"{where}: no image bytes")
    try:
        pixels = np.asarray(Picture.open(io.BytesIO(content), formats=("PNG", "JPEG")).convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, Picture.DecompressionBombError) as error:
        raise DataError(f"{where}: {error}") from None
    if pixels.shape != (SIDE, SIDE, 3):
        raise DataError(f"{where}: an image of {pixels.shape[1]} x {pixels.shape[0]}, 32 x 32 expected")
    return pixels.transpose(2, 0, 1).reshape(3, SIDE * SIDE)
