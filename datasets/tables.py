"""Reader of Parquet, Arrow, CSV and TSV files with named columns, as in copies of Hugging Face, Kaggle and S4."""

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet

from proxytune.datasets.archives import seekable
from proxytune.datasets.errors import DataError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLE_SUFFIXES = (".parquet", ".arrow", *_DELIMITERS)
# A text of Retrieval is longer than csv's limit of 128 KiB.
csv.field_size_limit(1 << 28)


def read_table(
    stream: IO[bytes], place: str, columns: Sequence[tuple[str, ...]], labels: Collection[str] = ()
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(row number from 1, values) of the columns, each given by its possible names, ignoring case.

    place names the file in errors; its suffix determines the format. A CSV or TSV file with two columns, one of which
    contains values of labels, may have no header. Raises DataError if a column is missing or the file is damaged.
    """
    delimiter = _DELIMITERS.get(place[-4:].lower())
    if delimiter is not None:
        yield from _read_delimited(stream, place, columns, labels, delimiter)
        return
    number = 0
    try:
        for batch in _record_batches(seekable(stream), place):
            batch.validate(full=True)
            chosen = [
                batch.column(_column(place, batch.schema.names, names)).to_pylist() for names in columns
            ]
            for values in zip(*chosen, strict=True):
                number += 1
                if None in values:
                    raise DataError(f"{place}, row {number}: an empty cell")
                yield number, values
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{place}: damaged ({str(error).splitlines()[0]})") from None


def _record_batches(stream: IO[bytes], place: str) -> Iterator[pa.RecordBatch]:
    if place.lower().endswith(".parquet"):
        yield from pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=1024)
        return
    magic = stream.read(6)
    stream.seek(0)
    if magic == b"ARROW1":
        reader = pa.ipc.open_file(stream)
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from pa.ipc.open_stream(stream)


def _read_delimited(
    stream: IO[bytes],
    place: str,
    columns: Sequence[tuple[str, ...]],
    labels: Collection[str],
    delimiter: str,
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
    reader = csv.reader(text, strict=True, delimiter=delimiter)
    try:
        header = next(reader, [])
        rows: Iterable[list[str]] = reader
        chosen = _without_header(header, labels)
        if chosen:
            rows = chain([header], reader)
        else:
            chosen = [header.index(_column(place, header, names)) for names in columns]
        blank = 0
        for number, row in enumerate(rows, 1):
            if not row:
                blank = blank or reader.line_num
                continue
            if blank or len(row) != len(header):
                raise DataError(
                    f"{place}, line {blank or reader.line_num}: "
                    f"{0 if blank else len(row)} columns, the header has {len(header)}"
                )
            yield number, tuple(row[index] for index in chosen)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{place}, line {reader.line_num}: {error}") from None
    finally:
        text.detach()  # the caller closes the stream


def _without_header(row: list[str], labels: Collection[str]) -> list[int]:
    """Column indices of text and label if the first row is not a header; empty if it may be a header."""
    found = [index for index, cell in enumerate(row) if cell.strip().lower() in labels]
    return [1 - found[0], found[0]] if len(row) == 2 and len(found) == 1 else []


def has_columns(path: Path, columns: Sequence[tuple[str, ...]]) -> bool:
    """Whether a Parquet or Arrow file has all columns. True for a damaged file, which its reader reports."""
    try:
        if path.suffix.lower() == ".parquet":
            present = pyarrow.parquet.read_schema(path).names
        else:
            with open(path, "rb") as stream:
                opened = pa.ipc.open_file if stream.read(6) == b"ARROW1" else pa.ipc.open_stream
                stream.seek(0)
                present = opened(stream).schema.names
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return True
    return all(_find(present, names) is not None for names in columns)


def _find(present: Sequence[str], names: tuple[str, ...]) -> str | None:
    return next((one for name in names for one in present if one.strip().lower() == name.lower()), None)


def _column(place: str, present: Sequence[str], names: tuple[str, ...]) -> str:
    found = _find(present, names)
    if found is None:
        raise DataError(f"{place}: no column {' or '.join(names)}; it has {', '.join(present)[:200]}")
    return found
