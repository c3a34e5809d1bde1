"""Image (CIFAR-10, Krizhevsky 2009): 32 x 32 grey pixels as a sequence of 1,024, 10 classes.

As in the Long Range Arena the last tenth of the train images is the validation split. As in its PyTorch code id 0 is both
a black pixel and padding, so black pixels are masked; `black_is_padding=False` shifts all ids by one instead.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets import safe_pickle
from proxytune.datasets.errors import DataError
from proxytune.datasets.packed import PACKED_FORMS, Packing, packed_formats, read_ids
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.pictures import DamagedPicture, black_convention, decode_picture, grey, shifted
from proxytune.datasets.shared_formats import NAMED, SPLIT_NAMES, hugging_face_formats
from proxytune.datasets.sources import NAMED_NPZ, NAMED_PICKLES, Format, Source
from proxytune.datasets.tables import read_table
from proxytune.datasets.task import Rows, TaskInfo, in_blocks, whole_label

SIDE = 32
NUM_CLASSES = 10
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASS_FOLDERS = "class folders of images"
COLUMNS = (("img", "image"), ("label",))
_ROW_BYTES = 1 + 3 * SIDE * SIDE  # of the binary form: the label, then the planes
_IMAGES_PER_BLOCK = 1000
# MD5 of the original batches, as published with the data.
_ORIGINAL = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}

Planes = NDArray[np.uint8]  # (rows, 3, pixels)
Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Image:
    """CIFAR-10 as python pickles or binary, Parquet, Arrow, folders of PNG or JPEG, or ready-made ids."""

    train_examples: int | None = None
    black_is_padding: bool = True

    name: ClassVar[str] = "image"
    version: ClassVar[int] = 1
    num_generated: ClassVar[int] = 0
    max_length: ClassVar[int] = SIDE * SIDE

    @property
    def formats(self) -> Sequence[Format]:
        """The original first, ready-made ids last."""
        return FORMATS

    @property
    def generator(self) -> str | None:
        """None: there is no generator of photographs."""
        return None

    def info(self, form: str | None = None) -> TaskInfo:
        """Ten classes over 256 grey levels."""
        packed = form in PACKED_FORMS and form != NAMED_PICKLES
        validation = "last tenth of the train images in file order"
        if form == CLASS_FOLDERS:
            validation = "a tenth of the train images, a fixed draw (folders have no order)"
        return TaskInfo(
            name=self.name,
            vocab_size=256 if self.black_is_padding else 257,
            max_length=self.max_length,
            num_classes=NUM_CLASSES,
            conventions={
                "tokens": ("grey levels as packed; " if packed else _GREY)
                + black_convention(black_is_padding=self.black_is_padding),
                "validation": "as packed" if packed and form != NAMED_NPZ else validation,
            },
        )

    def decode(self, ids: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The picture in grey levels."""
        return (ids - (0 if self.black_is_padding else 1)).astype(np.uint8).reshape(SIDE, SIDE)

    def read(self, source: Source, mapper: Mapper) -> Iterator[tuple[str, Rows]]:
        """Train, validation and test rows in file order."""
        assert source.format is not None
        yield from source.format.read(self, source)

    def rows(self, planes: Planes, labels: Labels) -> Rows:
        """Rows of colour images."""
        pixels = shifted(grey(planes), black_is_padding=self.black_is_padding)
        return Rows((pixels.reshape(-1),), (np.full(len(labels), self.max_length, np.int64),), labels)

    def divide(
        self, source: Source, train: Rows, test: Rows, own: Rows | None = None
    ) -> Iterator[tuple[str, Rows]]:
        """The task's splits. The last tenth of train is validation, unless the source has a validation split."""
        source.counts.update({"train": len(train), "test": len(test)})
        if own is not None:
            source.counts["validation"] = len(own)
            source.notes["validation"] = f"the copy's own split of {len(own):,} images"
        num_train = len(train) - (len(train) // 10 if own is None else 0)
        yield "train", train[:num_train]
        yield "validation", train[num_train:] if own is None else own
        yield "test", test


_GREY = "grey levels row by row, 0.2989 R + 0.587 G + 0.114 B; "


def _read_files(task: Image, source: Source) -> Iterator[tuple[str, Rows]]:
    """Rows of batches and tables, in the order of the file names."""
    blocks: dict[str, list[tuple[str, Rows]]] = {part: [] for part in source.files}
    digests = {}
    for part, name, stream in source.open():
        place = source.place(name)
        if name.lower().endswith(".npz"):
            packed = [_packed_rows(task, one) for one in in_blocks(read_ids(stream, place, PACKING), 1024)]
            if not packed:
                raise DataError(f"{place}: it has no rows")
            rows = Rows.join(packed)
        else:
            content = _Digested(stream)
            rows = task.rows(*_planes(source, content, place))
            digests[name.rpartition("/")[2]] = content.hexdigest()
        blocks[part].append((name, rows))
    sizes = {len(rows) for _, rows in blocks["train"]}
    if source.format is not None and source.format.num_files and len(sizes) > 1:
        source.lacks(f"{source.path}: train files of {', '.join(map(str, sorted(sizes)))} images")
    if digests == _ORIGINAL:
        source.notes["known"] = "the original CIFAR-10 (MD5 of every file)"
    joined = {
        part: Rows.join([rows for _, rows in sorted(found, key=lambda block: block[0])])
        for part, found in blocks.items()
        if found
    }
    yield from task.divide(source, joined["train"], joined["test"], joined.get("validation"))


class _Digested:
    """A stream's content, read once, and its MD5, which identifies the original files."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.content = stream.read()

    def hexdigest(self) -> str:
        return hashlib.md5(self.content, usedforsecurity=False).hexdigest()


def _planes(source: Source, file: _Digested, place: str) -> tuple[Planes, Labels]:
    if place.lower().endswith(".bin"):
        return _read_binary(source, file.content, place)
    if place.lower().endswith((".parquet", ".arrow")):
        planes, labels = [], []
        for number, (image, label) in read_table(io.BytesIO(file.content), place, COLUMNS):
            planes.append(_picture(image, f"{place}, row {number}"))
            labels.append(_label(label, f"{place}, row {number}"))
        if not planes:
            raise DataError(f"{place}: it has no rows")
        return np.array(planes), np.array(labels, np.int64)
    return _read_pickle(io.BytesIO(file.content), place)


def _label(value: object, where: str) -> int:
    try:
        return whole_label(value)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _read_pickle(stream: IO[bytes], place: str) -> tuple[Planes, Labels]:
    batch = safe_pickle.load(stream, place)
    try:
        planes = safe_pickle.as_array(batch[b"data"])
        labels = safe_pickle.as_array(batch[b"labels"])
    except (KeyError, TypeError, DataError) as error:
        raise DataError(f"{place}: no CIFAR-10 batch, data and labels are expected ({error})") from None
    if planes.dtype != np.uint8 or planes.shape != (labels.size, 3 * SIDE * SIDE):
        raise DataError(
            f"{place}: data of shape {planes.shape} and type {planes.dtype}, {labels.size} labels"
        )
    try:
        classes = np.array([whole_label(label) for label in labels.ravel().tolist()], np.int64)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    return planes.reshape(-1, 3, SIDE * SIDE), classes


def _read_binary(source: Source, content: bytes, place: str) -> tuple[Planes, Labels]:
    """Images of one label byte and 3,072 bytes of planes."""
    if not content or len(content) % _ROW_BYTES:
        source.lacks(
            f"{place}: {len(content)} bytes are not a multiple of the {_ROW_BYTES} bytes of an image; it is truncated"
        )
    rows = np.frombuffer(content, np.uint8, len(content) // _ROW_BYTES * _ROW_BYTES).reshape(-1, _ROW_BYTES)
    return rows[:, 1:].reshape(-1, 3, SIDE * SIDE), rows[:, 0].astype(np.int64)


def _picture(image: object, where: str) -> NDArray[np.uint8]:
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        raise DataError(f"{where}: no image bytes")
    return decode_picture(content, where, SIDE, "RGB").transpose(2, 0, 1).reshape(3, SIDE * SIDE)


def _read_class_folders(task: Image, source: Source) -> Iterator[tuple[str, Rows]]:
    """Images sorted by class and content, then shuffled once, so that the result does not depend on the order of files."""
    found: dict[str, list[tuple[int, bytes]]] = {"train": [], "test": [], "validation": []}
    lossy = 0
    for part, name, stream in source.open():
        split, label = part.split()
        lossy += name.lower().endswith((".jpg", ".jpeg"))
        content, place = stream.read(), source.place(name)
        try:
            planes = _picture(content, place)
        except DamagedPicture as error:
            source.lacks(str(error))
            continue
        found[split].append((int(label), planes.tobytes()))
    if lossy:
        source.notes["lossy"] = f"{lossy:,} images are JPEG, whose pixels differ from the original's"
    random = np.random.default_rng(0)
    train, test, own = (
        _joined(task, [images[index] for index in random.permutation(len(images))]) if images else None
        for images in map(sorted, found.values())
    )
    if train is None or test is None:
        raise DataError(f"{source.path}: no readable image for the {'test' if train else 'train'} split")
    yield from task.divide(source, train, test, own)


def _joined(task: Image, images: list[tuple[int, bytes]]) -> Rows:
    blocks = [images[start : start + _IMAGES_PER_BLOCK] for start in range(0, len(images), _IMAGES_PER_BLOCK)]
    return Rows.join(
        [
            task.rows(
                np.frombuffer(b"".join(planes for _, planes in block), np.uint8).reshape(len(block), 3, -1),
                np.array([label for label, _ in block], np.int64),
            )
            for block in blocks
        ]
    )


def _packed_rows(task: Image, rows: Rows) -> Rows:
    return Rows((shifted(rows.values[0], black_is_padding=task.black_is_padding),), rows.lengths, rows.labels)


def _adapt(task: Image, source: Source, blocks: Iterator[tuple[str, Rows]]) -> Iterator[tuple[str, Rows]]:
    return ((split, _packed_rows(task, rows)) for split, rows in blocks)


PACKING = Packing(zeros_are_padding=False)
PACKED_ROWS = {"train": 45_000, "validation": 5_000, "test": 10_000}
PACKED = packed_formats(
    PACKING, pickle_name="image", folder_names=("cifar10", "image"), rows=PACKED_ROWS, adapt=_adapt
)
_OFFICIAL: dict[str, Any] = {
    "rows": {"train": 50_000, "test": 10_000},
    "classes": {"train": (5_000,) * NUM_CLASSES, "test": (1_000,) * NUM_CLASSES},
}
_BATCHES: dict[str, Any] = {**_OFFICIAL, "read": _read_files, "num_files": {"train": 5}}


def _folders(name: str) -> tuple[str, ...]:
    return (name, f"cifar10/{name}", f"cifar/{name}", f"*/{name}", ".")


FORMATS = (
    Format(
        name="CIFAR-10 python pickles",
        folders=_folders("cifar-10-batches-py"),
        parts={"train": "data_batch_?", "test": "test_batch"},
        archives=("cifar*",),
        tested="real",
        note="Every batch must hold as many images as the others.",
        **_BATCHES,
    ),
    Format(
        name="CIFAR-10 binary",
        folders=_folders("cifar-10-batches-bin"),
        parts={"train": "data_batch_?.bin", "test": "test_batch.bin"},
        archives=("cifar*",),
        tested="made",
        **_BATCHES,
    ),
    *hugging_face_formats(
        ("cifar10",), optional=("validation",), columns=COLUMNS, read=_read_files, tested="made", **_OFFICIAL
    ),
    Format(
        name=CLASS_FOLDERS,
        folders=("cifar10", "CIFAR-10-images*", "cifar-10", "*/cifar10", "cifar*", "."),
        parts={
            f"{split} {label}": f"{folder}/{{{name},{label}}}/*"
            for split, folder in SPLIT_NAMES.items()
            for label, name in enumerate(CLASSES)
        },
        optional=tuple(f"validation {label}" for label in range(NUM_CLASSES)),
        per_class=True,
        archives=("cifar*",),
        read=_read_class_folders,
        tested="made",
        note="JPEG is lossy, which is recorded; validation is a fixed draw, unless there is a `val` folder.",
        **_OFFICIAL,
    ),
    *PACKED,
    Format(
        name=NAMED,
        folders=(),
        parts=dict.fromkeys(SPLIT_NAMES, "*.{bin,parquet,arrow,npz}, or a python batch"),
        optional=("validation",),
        read=_read_files,
        tested="made",
        **_OFFICIAL,
    ),
)
