"""Ready-made token ids: Skyformer's and Nyströmformer's pickles, and MEGA's packed text.

All tasks are packed alike, so every task's reader uses these; whose ids they are is the task's business.
"""

from collections.abc import Iterator
from itertools import zip_longest
from typing import IO

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets import safe_pickle
from proxytune.datasets.errors import DataError
from proxytune.datasets.sources import Layout, Source
from proxytune.datasets.task import PADDING_ID, Rows

SKYFORMER, NYSTROMFORMER, MEGA = "Skyformer pickles", "Nystromformer pickles", "MEGA packed text"
PACKED_FORMS = (SKYFORMER, NYSTROMFORMER, MEGA)
_ROWS_PER_BLOCK = 1024
_PICKLE_FOLDERS = (".", "pickles", "data", "datasets", "lra_data", "lra_pickles")


def packed_layouts(pickle_name: str, mega_name: str | None = None) -> tuple[Layout, ...]:
    """The layouts of a task whose pickles and MEGA folder have these names."""
    pickles = {"train": "train", "validation": "dev", "test": "test"}
    layouts = [
        Layout(
            form,
            _PICKLE_FOLDERS,
            {part: f"{prefix}{pickle_name}.{name}.pickle" for part, name in pickles.items()},
        )
        for form, prefix in ((SKYFORMER, "lra-"), (NYSTROMFORMER, ""))
    ]
    if mega_name is not None:
        files = {
            f"{split} {kind}": f"{kind}/{name}.{suffix}"
            for split, name in (("train", "train"), ("validation", "valid"), ("test", "test"))
            for kind, suffix in (("input", "src"), ("label", "label"))
        }
        layouts.append(Layout(MEGA, (f"lra/{mega_name}", mega_name), files, archives=("lra.tar*",)))
    return tuple(layouts)


def is_packed(source: Source) -> bool:
    """Whether read_packed reads this source."""
    return source.form in PACKED_FORMS


def read_packed(source: Source, *, num_documents: int, zeros_are_padding: bool) -> Iterator[tuple[str, Rows]]:
    """(split, rows); with zeros_are_padding the zeros at the end of a document are left out."""
    if source.form == MEGA:
        yield from _read_mega(source, zeros_are_padding=zeros_are_padding)
        return
    for split, name, stream in source.open():
        yield from (
            (split, rows)
            for rows in _read_pickle(
                stream, source.place(name), num_documents=num_documents, zeros_are_padding=zeros_are_padding
            )
        )


def _read_pickle(
    stream: IO[bytes], place: str, *, num_documents: int, zeros_are_padding: bool
) -> Iterator[Rows]:
    examples = safe_pickle.load(stream, place)
    if not isinstance(examples, list):
        raise DataError(f"{place}: a pickled {type(examples).__name__}, LRA pickles hold a list of examples")
    keys = [f"input_ids_{document}" for document in range(num_documents)]
    for start in range(0, len(examples), _ROWS_PER_BLOCK):
        documents, labels = [], []
        for number, example in enumerate(examples[start : start + _ROWS_PER_BLOCK], start):
            try:
                documents.append(
                    tuple(_document(example[key], zeros_are_padding=zeros_are_padding) for key in keys)
                )
                labels.append(int(example["label"]))
            except (KeyError, TypeError, ValueError, IndexError, DataError) as error:
                raise DataError(
                    f"{place}: example {number} is no {{{', '.join(keys)}, label}} ({error})"
                ) from None
        yield Rows.of(documents, labels)


def _document(value: object, *, zeros_are_padding: bool) -> NDArray[np.integer]:
    ids = safe_pickle.as_array(value)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(f"ids of shape {ids.shape} and type {ids.dtype}")
    if zeros_are_padding:
        valid = np.flatnonzero(ids != PADDING_ID)
        ids = ids[: valid[-1] + 1] if len(valid) else ids[:0]
    return ids


def _read_mega(source: Source, *, zeros_are_padding: bool) -> Iterator[tuple[str, Rows]]:
    """One line an example, blank-separated integers; labels in a file of their own, read first."""
    labels = {
        part.split()[0]: _mega_labels(stream, source.place(name))
        for part, name, stream in source.open([part for part in source.files if part.endswith("label")])
    }
    for part, name, stream in source.open([part for part in source.files if part.endswith("input")]):
        split = part.split()[0]
        documents: list[tuple[NDArray[np.integer], ...]] = []
        block: list[int] = []
        for number, (line, label) in enumerate(zip_longest(stream, labels[split]), 1):
            if line is None or label is None:
                raise DataError(
                    f"{source.place(name)}, line {number}: {len(labels[split])} labels, another number of inputs"
                )
            try:
                ids = np.array(line.split(), np.int64)
            except (ValueError, OverflowError):
                raise DataError(f"{source.place(name)}, line {number}: not only integers") from None
            documents.append((_document(ids, zeros_are_padding=zeros_are_padding),))
            block.append(label)
            if len(block) == _ROWS_PER_BLOCK:
                yield split, Rows.of(documents, block)
                documents, block = [], []
        if block:
            yield split, Rows.of(documents, block)


def _mega_labels(stream: IO[bytes], place: str) -> list[int]:
    labels = []
    for number, line in enumerate(stream, 1):
        try:
            labels.append(int(line))
        except ValueError:
            raise DataError(f"{place}, line {number}: label {line[:20]!r} is no integer") from None
    return labels
