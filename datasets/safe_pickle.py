"""Reads the pickles in which CIFAR-10 and copies of LRA are distributed, without executing code from them.

Only numpy's arrays, dtypes and scalars are supported. They are rebuilt from their bytes, and no function named by the
pickle is called. Everything else raises DataError.
"""

import pickle
from collections.abc import Callable
from math import prod
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.errors import DataError

_KINDS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")


class _DType:
    """A plain number type, without fields or objects."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        text = name.decode("latin-1") if isinstance(name, bytes) else str(name)
        if text.lstrip("<>|=") not in _KINDS:
            raise DataError(f"an array of type {text[:20]!r}; only plain numbers are read")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("latin-1") if isinstance(state[1], bytes) else state[1]
        if order == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """Replaces numpy.ndarray while unpickling; `array` is set by __setstate__."""

    array: NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, content = state
        self.array = _from_bytes(content, dtype, shape, "F" if is_fortran else "C")


def _from_bytes(content: Any, dtype: Any, shape: Any, order: str = "C") -> NDArray[Any]:
    if not isinstance(dtype, _DType) or not isinstance(content, bytes | bytearray):
        raise DataError("an array that does not hold plain numbers")
    if prod(shape) * dtype.dtype.itemsize != len(content):
        raise DataError(f"an array of shape {shape} with {len(content)} bytes")
    return np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, content: Any) -> int | float:
    number: int | float = _from_bytes(content, dtype, ()).item()
    return number


def _encode(text: Any, encoding: Any) -> bytes:
    """Decodes bytes as Python 3 writes them in protocol 2."""
    if encoding != "latin1" or not isinstance(text, str):
        raise DataError(f"a text in encoding {encoding!r}")
    return text.encode("latin1")


_KNOWN = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_bytes),
        )
    },
}


class _Unpickler(pickle._Unpickler):
    """Python's implementation: the one in C allocates its memo for any index in the file, gigabytes for a few bytes."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_bytearray8(self) -> None:
        """As the original, but the bytes are read before memory is allocated for them."""
        read: Callable[[int], bytes] = self.read  # type: ignore[attr-defined]
        size = int.from_bytes(read(8), "little")
        content = read(size)
        if len(content) < size:
            raise EOFError(f"{size:,} bytes expected, {len(content):,} found")
        self.append(bytearray(content))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise DataError(
                f"it requires {module}.{name}, which data do not need; refused, nothing was executed"
            )
        return _KNOWN[module, name]


def load(stream: IO[bytes], place: str) -> Any:
    """Load lists, dicts, strings, numbers and arrays; Python 2 strings become bytes.

    An array may be an object with the attribute `array`: use `as_array`. Raises DataError that begins with place for
    anything else, and for a damaged file.
    """
    try:
        return _Unpickler(stream, encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    except Exception as error:  # a damaged stream can raise any exception
        raise DataError(
            f"{place}: damaged pickle ({str(error) or type(error).__name__})".splitlines()[0]
        ) from None


def as_array(value: Any) -> NDArray[Any]:
    """The array of a pickled array or list from `load`. Raises DataError for anything else."""
    if isinstance(value, _Array) and hasattr(value, "array"):
        return value.array
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{type(value).__name__} where numbers are expected")
    return array if array.size else array.astype(np.int64)
