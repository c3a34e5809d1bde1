"""Ready-made token ids: pickles of Skyformer and Nyströmformer, MEGA's text, S4's cache, and npz files.

The packed formats are the same for all tasks; each task defines the meaning of its ids.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets import safe_pickle
from proxytune.datasets.errors import DataError
from proxytune.datasets.npz import read_npz
from proxytune.datasets.shared_formats import SPLIT_NAMES
from proxytune.datasets.sources import NAMED_NPZ, NAMED_PICKLES, Format, Source
from proxytune.datasets.tables import read_table
from proxytune.datasets.task import PADDING_ID, Rows, in_blocks, whole_label

SKYFORMER, NYSTROMFORMER, MEGA = "Skyformer pickles", "Nystromformer pickles", "MEGA packed text"
S4_CACHE, NPZ = "S4 cache", "npz"
PICKLES = (SKYFORMER, NYSTROMFORMER)
PACKED_FORMS = (*PICKLES, MEGA, S4_CACHE, NPZ, NAMED_PICKLES, NAMED_NPZ)
ROWS_PER_BLOCK = 1024
_PICKLE_FOLDERS = (
    "data/lra_processed", "lra_processed", "data/lra-processed", "lra-processed", ".", "pickles", "data", "datasets",
    "lra_data", "lra_pickles",
)  # fmt: skip

Example = tuple[tuple[NDArray[np.integer], ...], int]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a task's ids are packed: documents per example, and whether trailing zeros are padding or black pixels.

    words, if given, encodes a line of MEGA's text that contains words instead of numbers; check(rows, lines, place) raises
    DataError for invalid rows of such ids.
    """

    num_documents: int = 1
    zeros_are_padding: bool = True
    words: Callable[[bytes], NDArray[np.integer]] | None = None
    check: Callable[[Rows, Sequence[int], str], None] | None = None

    def document(self, value: object) -> NDArray[np.integer]:
        """One document's ids, without padding. Raises DataError if they are not a sequence of integers."""
        ids = safe_pickle.as_array(value)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise DataError(f"ids of shape {ids.shape} and type {ids.dtype}, integers in a row are expected")
        if ids.min(initial=0) < 0:
            raise DataError(f"token id {ids.min()} is negative")
        if self.zeros_are_padding:
            valid = np.flatnonzero(ids != PADDING_ID)
            ids = ids[: valid[-1] + 1] if len(valid) else ids[:0]
        if not len(ids):
            raise DataError("an example of padding alone is empty")
        return ids


def read_ids(stream: IO[bytes], place: str, packing: Packing) -> Iterator[Example]:
    """Examples of one pickle or npz file, selected by suffix. Raises DataError with the number of the example."""
    if place.lower().endswith(".npz"):
        rows = read_npz(stream, place, packing.num_documents)
    else:
        rows = _pickled(stream, place, packing.num_documents)
    for number, (documents, label) in enumerate(rows):
        yield _example(f"{place}, example {number}", packing, documents, label)


def _example(where: str, packing: Packing, documents: tuple[Any, ...], label: object) -> Example:
    try:
        return tuple(map(packing.document, documents)), whole_label(label)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _pickled(stream: IO[bytes], place: str, num_documents: int) -> Iterator[tuple[tuple[Any, ...], Any]]:
    examples = safe_pickle.load(stream, place)
    if not isinstance(examples, list):
        raise DataError(f"{place}: a pickled {type(examples).__name__}, LRA pickles hold a list of examples")
    keys = [f"input_ids_{document}" for document in range(num_documents)]
    for number, example in enumerate(examples):
        try:
            yield tuple(example[key] for key in keys), example["label"]
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{place}: example {number} is not {{{', '.join(keys)}, label}} ({error})"
            ) from None


def packed_formats(
    packing: Packing,
    *,
    pickle_name: str,
    folder_names: tuple[str, ...],
    rows: Mapping[str, int],
    s4_columns: tuple[tuple[str, ...], ...] | None = None,
    mega: bool = True,
    adapt: Callable[[Any, Source, Iterator[tuple[str, Rows]]], Iterator[tuple[str, Rows]]],
) -> tuple[Format, ...]:
    """A task's packed formats. pickle_name is the name of its pickles; its folders have one of folder_names, MEGA's the
    first. s4_columns are the columns of S4's cache, if it has one. adapt converts the packed rows to the task's rows.
    """

    def adapted(read: Callable[[Source, Packing], Iterator[tuple[str, Rows]]]) -> Callable[..., Any]:
        return lambda task, source: adapt(task, source, read(source, packing))

    formats = [_pickle_format(name, pickle_name, rows, adapted(_read_files)) for name in PICKLES]
    if mega:
        formats.append(_mega_format(folder_names[0], rows, adapted(_read_mega)))
    if s4_columns is not None:
        formats.append(_s4_format(s4_columns, rows, adapted(partial(_read_s4, s4_columns))))
    formats.append(_npz_format(folder_names, rows, adapted(_read_files)))
    return tuple(formats)


def _pickle_format(name: str, pickle_name: str, rows: Mapping[str, int], read: Callable[..., Any]) -> Format:
    prefix = "lra-" if name == SKYFORMER else ""
    files = {"train": "train", "validation": "dev", "test": "test"}
    return Format(
        name=name,
        folders=_PICKLE_FOLDERS,
        parts={part: f"{prefix}{pickle_name}.{split}.{{pickle,pkl}}" for part, split in files.items()},
        archives=("lra*",),
        read=read,
        rows=rows,
        tested="made",
    )


def _mega_format(folder: str, rows: Mapping[str, int], read: Callable[..., Any]) -> Format:
    parts = {
        f"{split} {kind}": f"{kind}/{name}.{suffix}"
        for split, name in (("train", "train"), ("validation", "{valid,val,dev}"), ("test", "test"))
        for kind, suffix in (("input", "src"), ("label", "label"))
    }
    return Format(
        name=MEGA,
        folders=(f"lra/{folder}", folder, f"data/lra/{folder}", "."),
        parts=parts,
        archives=("lra*",),
        read=read,
        rows=rows,
        tested="made",
    )


def _s4_format(
    columns: tuple[tuple[str, ...], ...], rows: Mapping[str, int], read: Callable[..., Any]
) -> Format:
    return Format(
        name=S4_CACHE,
        folders=("l_max-*", "*/l_max-*", "*/cache/l_max-*", "cache/l_max-*", "*/*/l_max-*", "."),
        parts={part: f"{split}/{{data-*,dataset}}.arrow" for part, split in SPLIT_NAMES.items()},
        optional=("validation",) if "validation" not in rows else (),
        columns=columns,
        read=read,
        rows=rows,
        tested="made",
        note="Its pickled vocabulary is not opened; ids keep S4's order.",
    )


def _npz_format(folder_names: tuple[str, ...], rows: Mapping[str, int], read: Callable[..., Any]) -> Format:
    prefixes = ",".join(["", *(f"{name}_" for name in folder_names if "/" not in name)])
    folders = [f"{base}{name}" for name in folder_names for base in ("", "lra/", "data/", "data/lra/")]
    return Format(
        name=NPZ,
        folders=(*folders, "npz", "."),
        parts={part: f"{{{prefixes}}}{split}.npz" for part, split in SPLIT_NAMES.items()},
        optional=("validation",) if "validation" not in rows else (),
        read=read,
        rows=rows,
        tested="made",
        note="Arrays inputs (inputs1, inputs2) and labels; also X and y, input_ids and label.",
    )


def _read_files(source: Source, packing: Packing) -> Iterator[tuple[str, Rows]]:
    for split, name, stream in source.open():
        examples = read_ids(stream, source.place(name), packing)
        yield from ((split, rows) for rows in in_blocks(examples, ROWS_PER_BLOCK))


def _read_s4(
    columns: tuple[tuple[str, ...], ...], source: Source, packing: Packing
) -> Iterator[tuple[str, Rows]]:
    for split, name, stream in source.open():
        place = source.place(name)
        examples = (
            _example(f"{place}, row {number}", packing, tuple(documents), label)
            for number, (*documents, label) in read_table(stream, place, columns)
        )
        yield from ((split, rows) for rows in in_blocks(examples, ROWS_PER_BLOCK))


def _read_mega(source: Source, packing: Packing) -> Iterator[tuple[str, Rows]]:
    """One example per line, as blank-separated integers. The labels are in a separate file, which is read first."""
    labels = {
        part.split()[0]: _mega_labels(stream, source.place(name))
        for part, name, stream in source.open([part for part in source.files if part.endswith("label")])
    }
    for part, name, stream in source.open([part for part in source.files if part.endswith("input")]):
        split, place = part.split()[0], source.place(name)
        has_words = packing.words is not None and b"[" in cast("io.BufferedReader", stream).peek(1)
        examples = _mega_examples(stream, place, labels[split], packing)
        for index, rows in enumerate(in_blocks(examples, ROWS_PER_BLOCK)):
            if has_words and packing.check is not None:
                packing.check(
                    rows, range(index * ROWS_PER_BLOCK + 1, (index + 1) * ROWS_PER_BLOCK + 1), place
                )
            yield split, rows


def _mega_examples(stream: IO[bytes], place: str, labels: list[int], packing: Packing) -> Iterator[Example]:
    for number, (line, label) in enumerate(zip_longest(stream, labels), 1):
        where = f"{place}, line {number}"
        if label is None and not line.strip():
            continue  # a blank last line
        if line is None or label is None:
            raise DataError(f"{where}: {len(labels)} labels, but another number of inputs")
        try:
            ids = (
                packing.words(line)
                if packing.words is not None and b"[" in line
                else np.array(line.split(), np.int64)
            )
        except (ValueError, OverflowError) as error:
            why = str(error) if isinstance(error, DataError) else "not only integers"
            raise DataError(f"{where}: {why}") from None
        yield _example(where, packing, (ids,), label)


def _mega_labels(stream: IO[bytes], place: str) -> list[int]:
    labels = []
    for number, line in enumerate(stream.read().decode("utf-8", "replace").rstrip().splitlines(), 1):
        try:
            labels.append(whole_label(line.strip()))
        except DataError as error:
            raise DataError(f"{place}, line {number}: {error}") from None
    return labels
