"""Pathfinder's files: the release's folders of PNG images with their metadata, and ready-made ids."""

import io
import os
import tempfile
import tokenize
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.errors import DataError
from proxytune.datasets.packed import Packing, packed_formats, read_ids
from proxytune.datasets.pictures import DamagedPicture, decode_picture, shifted
from proxytune.datasets.shared_formats import NAMED, SPLIT_NAMES
from proxytune.datasets.sources import Format, Source
from proxytune.datasets.task import SPLITS, Rows, in_blocks

if TYPE_CHECKING:
    from proxytune.datasets.pathfinder import Pathfinder

FOLDERS = {"easy": "curv_baseline", "medium": "curv_contour_length_9", "hard": "curv_contour_length_14"}
UNNAMED = "Skyformer pickles without a difficulty"
PACKING = Packing(zeros_are_padding=False)
_ROWS_PER_BLOCK = 256


@lru_cache
def pathfinder_formats(side: int, difficulty: str) -> tuple[Format, ...]:
    """The formats of one size and difficulty."""
    images, folder = f"pathfinder{side}", FOLDERS[difficulty]
    bases = ("lra_release/lra_release/", "lra_release/", "", "pathfinder/", "data/pathfinder/", "data/", "*/lra_release/lra_release/", "*/lra_release/", "*/")  # fmt: skip
    # One image of the easy split of 32 x 32 is empty in the release.
    num_images = 199_999 if (side, difficulty) == (32, "easy") else 200_000
    rows = {"train": 160_000, "validation": 20_000, "test": 20_000}
    formats = [
        Format(
            name="image folders",
            folders=(*(f"{base}{images}/{folder}" for base in bases), folder),
            parts={"metadata": "metadata/*.npy", "images": "imgs/*/*.png"},
            archives=("lra*", f"{images}*"),
            read=_read_folders,
            rows={"all": num_images},
            tested="made",
            note="Metadata as text, as true .npy, or as upstream's combined.npy. "
            "The decoder was tried on real images, which have no labels.",
        ),
        *packed_formats(
            PACKING,
            pickle_name=f"{images}-{folder}",
            folder_names=(f"{images}/{folder}", f"{images}-{folder}", f"{images}_{difficulty}"),
            rows=rows,
            adapt=_adapt,
        ),
    ]
    if (side, difficulty) == (32, "hard"):
        formats.append(
            Format(
                name=UNNAMED,
                folders=("data/lra_processed", "lra_processed", "data/lra-processed", "lra-processed", "."),
                parts={
                    part: f"lra-pathfinder.{name}.{{pickle,pkl}}"
                    for part, name in (("train", "train"), ("validation", "dev"), ("test", "test"))
                },
                read=_read_named,
                rows=rows,
                tested="made",
            )
        )
    formats.append(
        Format(
            name=NAMED,
            folders=(),
            parts=dict.fromkeys(SPLIT_NAMES, "*.{pickle,npz}"),
            read=_read_named,
            rows=rows,
            tested="made",
        )
    )
    return tuple(formats)


def _adapt(
    task: "Pathfinder", source: Source, blocks: Iterator[tuple[str, Rows]]
) -> Iterator[tuple[str, Rows]]:
    for split, rows in blocks:
        values = shifted(rows.values[0], black_is_padding=task.black_is_padding)
        yield split, Rows((values,), rows.lengths, rows.labels)


def _read_named(task: "Pathfinder", source: Source) -> Iterator[tuple[str, Rows]]:
    for split, name, stream in source.open():
        blocks = in_blocks(read_ids(stream, source.place(name), PACKING), _ROWS_PER_BLOCK)
        yield from _adapt(task, source, ((split, rows) for rows in blocks))


def _read_folders(task: "Pathfinder", source: Source) -> Iterator[tuple[str, Rows]]:
    """Images sorted by name, independent of the order in an archive."""
    labels = _read_labels(source)
    images = {name for name in source.files["images"] if name in labels}
    absent = sorted(labels.keys() - images)
    if absent:
        source.lacks(
            f"{source.place(absent[0])} is missing, but its metadata exist ({len(absent)} such images)"
        )
    unlabelled = [name for name in source.files["images"] if name not in labels]
    if unlabelled:
        source.lacks(f"{source.place(unlabelled[0])} has no metadata ({len(unlabelled)} such images)")
    empty: list[str] = []
    names, pixels = _read_images(task.side, source, sorted(images), empty)
    if empty:
        source.notes["skipped"] = f"{len(empty)} empty images, the first {empty[0]}"
    source.counts["all"] = sum(map(bool, names))
    split_of = fixed_draw(sorted(labels))
    for split in SPLITS:
        chosen = [index for index, name in enumerate(names) if name and split_of[name] == split]
        for start in range(0, len(chosen), _ROWS_PER_BLOCK):
            block = chosen[start : start + _ROWS_PER_BLOCK]
            classes = np.array([labels[names[index]] for index in block], np.int64)
            yield split, task.rows(np.asarray(pixels[block]), classes)


def _read_images(
    side: int, source: Source, images: list[str], empty: list[str]
) -> tuple[list[str], NDArray[np.uint8]]:
    """The images' names ("" for a skipped image) and their pixels, stored in an unnamed temporary file."""
    if not images:
        raise DataError(f"{source.path}: no image that is listed in its metadata")
    position = {name: index for index, name in enumerate(images)}
    names = [""] * len(images)
    with tempfile.TemporaryFile(dir=source.scratch) as scratch:
        os.posix_fallocate(scratch.fileno(), 0, len(images) * side * side)  # a full disk is an error here
        pixels = np.memmap(scratch, np.uint8, "r+", shape=(len(images), side, side))
    for _, name, stream in source.open(["images"]):
        if name not in position:
            continue
        content = stream.read()
        if not content:
            empty.append(name)
            continue
        try:
            pixels[position[name]] = decode_picture(content, source.place(name), side, "L")
        except DamagedPicture as error:
            source.lacks(str(error))
            continue
        names[position[name]] = name
    return names, pixels


def _read_labels(source: Source) -> dict[str, int]:
    """Each image's label, by its path. Upstream's combined.npy repeats the other files and is read only without them."""
    files = source.files["metadata"]
    numbered = [name for name in files if not PurePosixPath(name).name.startswith("combined")]
    whole = [name for name in files if PurePosixPath(name).name == "combined.npy"]
    wanted = set(numbered or whole or files)
    labels: dict[str, int] = {}
    for _, name, stream in source.open(["metadata"]):
        if name not in wanted:
            continue
        base = name.rsplit("metadata/", 1)[0]
        for image, label, where in read_metadata(stream, source.place(name)):
            if base + image in labels:
                raise DataError(f"{where}: {image} is duplicated")
            labels[base + image] = label
    return labels


def read_metadata(stream: IO[bytes], place: str) -> Iterator[tuple[str, int, str]]:
    """(image below the difficulty's folder, label, where) of one metadata file.

    The release's .npy files are plain text: folder, file, index in the batch, label, generation parameters. The official
    code now writes true .npy files of strings with the same fields. Raises DataError with the line.
    """
    content = stream.read()
    if content.startswith(b"\x93NUMPY"):
        try:
            table = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, EOFError, OSError, MemoryError, RuntimeError, tokenize.TokenError) as error:
            raise DataError(f"{place}: {error}") from None
        if table.dtype.kind not in "US" or table.ndim not in (1, 2):
            raise DataError(
                f"{place}: an array of {table.dtype} and {table.ndim} dimensions, metadata are strings"
            )
        texts = [
            part.decode("utf-8", "replace") if isinstance(part, bytes) else part
            for part in table.ravel().tolist()
        ]
        width = table.shape[-1] if table.ndim == 2 else 1
        lines = [" ".join(texts[start : start + width]) for start in range(0, len(texts), width)]
    else:
        lines = content.decode("utf-8", "replace").rstrip().splitlines()
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
            raise DataError(f"{where}: {folder}/{file} is outside the data folder")
        yield f"{folder}/{file}", int(fields[3]), where


def fixed_draw(images: Sequence[str] | dict[str, int]) -> dict[str, str]:
    """The split of each image: a seeded draw over the sorted names."""
    names = sorted(images)
    order = np.random.default_rng(0).permutation(len(names))
    ends = len(names) * 8 // 10, len(names) * 9 // 10
    return {
        names[index]: "train" if rank < ends[0] else "validation" if rank < ends[1] else "test"
        for rank, index in enumerate(order)
    }
