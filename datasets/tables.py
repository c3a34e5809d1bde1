"""Rows of Parquet, Arrow and CSV files with named columns, as Hugging Face and Kaggle copies have them."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet

from proxytune.datasets.errors import DataError


def read_table(
    stream: IO[bytes], place: str, columns: Sequence[tuple[str, ...]]
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(row number from 1, values) of the columns, each given by its possible names.

    place names the file in errors; its suffix says the kind. Raises DataError when a column is missing, or the
    file is damaged.
    """
    if place.endswith(".csv"):
        yield from _read_csv(stream, place, columns)
        return
    number = 0
    try:
        for batch in _record_batches(stream, place):
            batch.validate(full=True)
            chosen = [
                batch.column(_column(place, batch.schema.names, names)).to_pylist() for names in columns
            ]
            for values in zip(*chosen, strict=True):
                number += 1
                if None in values:
                    raise DataError(f"{place}, row {number}: an empty cell")
                yield number, values
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{place}: damaged ({str(error).splitlines()[0]})") from None


def _record_batches(stream: IO[bytes], place: str) -> Iterator[pa.RecordBatch]:
    if place.endswith(".parquet"):
        yield from pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=1024)
        return
    magic = stream.read(6)
    stream.seek(0)
    if magic == b"ARROW1":
        reader = pa.ipc.open_file(stream)
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from pa.ipc.open_stream(stream)


def _read_csv(
    stream: IO[bytes], place: str, columns: Sequence[tuple[str, ...]]
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    text = io.TextIOWrapper(stream, "utf-8", newline="")
    reader = csv.reader(text, strict=True)
    try:
        header = next(reader, [])
        chosen = [header.index(_column(place, header, names)) for names in columns]
        for number, row in enumerate(reader, 1):
            if len(row) != len(header):
                raise DataError(
                    f"{place}, line {reader.line_num}: {len(row)} columns, the header has {len(header)}"
                )
            yield number, tuple(row[index] for index in chosen)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{place}, line {reader.line_num}: {error}") from None
    finally:
        text.detach()  # the stream is its opener's to close


def has_columns(path: Path, columns: Sequence[tuple[str, ...]]) -> bool:
    """Whether a Parquet file has all of them; a damaged file is left to its reader to name."""
    try:
        present = pyarrow.parquet.read_schema(path).names
    except (pa.ArrowException, OSError):
        return True
    return all(any(name in present for name in names) for names in columns)


def _column(place: str, present: Sequence[str], names: tuple[str, ...]) -> str:
    for name in names:
        if name in present:
            return name
    raise DataError(f"{place}: no column {' or '.join(names)}; it has {', '.join(present)}")
