"""Reader of npz files: arrays of ids and labels, checked before memory is allocated for them."""

import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from math import prod
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from proxytune.datasets.archives import MAX_RATIO, seekable
from proxytune.datasets.errors import DataError

_LABELS = ("labels", "label", "targets", "target", "y")
_INPUTS = ("inputs", "input_ids", "input", "tokens", "x", "X")
_PAIRS = (("inputs1", "inputs2"), ("input_ids_0", "input_ids_1"), ("input_ids1", "input_ids2"), ("x1", "x2"))
# Ids of one task's split: 160,000 pictures of 128 x 128, or 147,086 pairs of 4,096 tokens, as 64-bit integers.
_MAX_ARRAY_BYTES = 24 << 30


def read_npz(
    stream: IO[bytes], place: str, num_documents: int
) -> Iterator[tuple[tuple[NDArray[Any], ...], Any]]:
    """(documents, label) of each example. Raises DataError for a damaged file, a missing array, or an array of objects."""
    arrays = _load(seekable(stream), place)
    keys = list(_PAIRS) if num_documents == 2 else [(name,) for name in (*_INPUTS, "input_ids_0")]
    inputs = next((names for names in keys if all(name in arrays for name in names)), None)
    labels = next((name for name in _LABELS if name in arrays), None)
    if inputs is None or labels is None:
        wanted = " and ".join(_PAIRS[0] if num_documents == 2 else _INPUTS[:1])
        raise DataError(f"{place}: it has {', '.join(arrays)}; arrays {wanted} and labels are expected")
    columns = [arrays[name] for name in inputs]
    if any(column.ndim < 2 or len(column) != len(arrays[labels]) for column in columns):
        shapes = ", ".join(f"{name} {arrays[name].shape}" for name in (*inputs, labels))
        raise DataError(f"{place}: arrays of shape {shapes}; (rows, length) and (rows,) are expected")
    for index, label in enumerate(arrays[labels].tolist()):
        yield tuple(column[index].reshape(-1) for column in columns), label


def _load(stream: IO[bytes], place: str) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(stream) as zipped:
            return {
                member.filename.removesuffix(".npy"): _read_array(zipped, member)
                for member in zipped.infolist()
                if member.filename.endswith(".npy")
            }
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        RuntimeError,  # encrypted, or not implemented
        tokenize.TokenError,  # a damaged header
    ) as error:
        raise DataError(f"{place}: {str(error).splitlines()[0][:160]}") from None


def _read_array(zipped: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    if member.file_size > min(_MAX_ARRAY_BYTES, max(MAX_RATIO * 10 * member.compress_size, 1 << 24)):
        raise DataError(f"array {member.filename} is {member.file_size:,} bytes when unpacked; refused")
    with zipped.open(member) as stream:
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(stream)
    if dtype.hasobject or prod(shape) * dtype.itemsize > member.file_size:
        raise DataError(f"array {member.filename} of {dtype} and shape {shape} in {member.file_size:,} bytes")
    with zipped.open(member) as stream:
        return np.asarray(npy.read_array(stream, allow_pickle=False))
