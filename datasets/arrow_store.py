"""Prepared splits on disk: one Arrow IPC file each, memory-mapped so that all processes share one copy.

Columns: tokens_0 (and tokens_1 for two documents) as list<uint8> or list<uint16>, label as int32. All record
batches but the last have ROWS_PER_BATCH rows, so a row is found without an index. The Arrow file format ends
with a footer, so a truncated file is refused when it is opened. Split.verify detects any other damage.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from proxytune.datasets.errors import DataError
from proxytune.datasets.file_records import file_sha256
from proxytune.datasets.pending_file import PendingFile
from proxytune.datasets.task import Rows, TaskInfo

ROWS_PER_BATCH = 4096


@dataclass(frozen=True)
class SplitRecord:
    """The manifest's entry for the file of one split.

    sha256 is of the file; content_sha256 is of the ids, lengths and labels only, independent of the file format.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    content_sha256: str


def _schema(info: TaskInfo) -> pa.Schema:
    tokens = pa.list_(pa.field("item", pa.uint8() if info.vocab_size <= 256 else pa.uint16(), nullable=False))
    fields = [
        pa.field(f"tokens_{document}", tokens, nullable=False) for document in range(info.num_documents)
    ]
    return pa.schema([*fields, pa.field("label", pa.int32(), nullable=False)])


def _array(values: NDArray[Any]) -> pa.Array:
    """The values without a copy. pa.array would import pandas for its type checks."""
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))]
    )


def _view(array: pa.Array) -> NDArray[Any]:
    """The values without a copy. to_numpy would import pandas."""
    dtype = np.dtype(str(array.type))
    if not len(array):
        return np.zeros(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


class SplitWriter:
    """Writes rows to an unnamed file in the folder; a context manager.

    After an exit without error `record` is set, and `publish` gives the file its name.
    """

    def __init__(self, folder: Path, split: str, info: TaskInfo) -> None:
        self.split = split
        self.info = info
        self.rows = 0
        self.record: SplitRecord | None = None
        self._schema = _schema(info)
        self._dtype = np.uint8 if info.vocab_size <= 256 else np.uint16
        self._pending: list[Rows] = []
        self._digest = hashlib.sha256()
        self._file = PendingFile(folder)
        self._writer = pa.ipc.new_file(self._file.stream, self._schema)

    def add(self, rows: Rows) -> None:
        """Append rows. Raises DataError if an id, a label or a length is invalid for the task."""
        self._check(rows)
        self.rows += len(rows)
        self._pending.append(rows)
        if sum(map(len, self._pending)) >= ROWS_PER_BATCH:
            self._write(whole_batches_only=True)

    def _check(self, rows: Rows) -> None:
        info = self.info
        for values, lengths in zip(rows.values, rows.lengths, strict=True):
            if lengths.min(initial=1) < 1:
                raise DataError(f"row {self.rows + int(lengths.argmin())} of {self.split} is empty")
            if lengths.max(initial=0) > info.max_length:
                raise DataError(
                    f"{lengths.max()} tokens in {self.split}, {info.name} takes {info.max_length}"
                )
            if values.min(initial=0) < 0 or values.max(initial=0) >= info.vocab_size:
                bad = np.flatnonzero((values < 0) | (values >= info.vocab_size))[0]
                row = self.rows + int(np.searchsorted(np.cumsum(lengths), bad, "right"))
                raise DataError(
                    f"token id {values[bad]} in row {row} of {self.split}; ids of {info.name} are 0 to {info.vocab_size - 1}"
                )
        bad_labels = np.flatnonzero((rows.labels < 0) | (rows.labels >= info.num_classes))
        if len(bad_labels):
            label, row = rows.labels[bad_labels[0]], self.rows + int(bad_labels[0])
            raise DataError(
                f"label {label} in row {row} of {self.split}; classes of {info.name} are 0 to {info.num_classes - 1}"
            )

    def _write(self, *, whole_batches_only: bool) -> None:
        rows = Rows.join(self._pending)
        end = len(rows) - len(rows) % ROWS_PER_BATCH if whole_batches_only else len(rows)
        for start in range(0, end, ROWS_PER_BATCH):
            self._write_batch(rows[start : min(start + ROWS_PER_BATCH, end)])
        self._pending = [rows[end : len(rows)]]

    def _write_batch(self, rows: Rows) -> None:
        columns: list[pa.Array] = []
        for document, (values, lengths) in enumerate(zip(rows.values, rows.lengths, strict=True)):
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            stored = np.ascontiguousarray(values, self._dtype)
            self._digest.update(lengths.astype("<i8").tobytes())
            self._digest.update(stored.astype("<u2").tobytes())
            columns.append(
                pa.ListArray.from_arrays(
                    _array(offsets), _array(stored), type=self._schema.field(document).type
                )
            )
        self._digest.update(rows.labels.astype("<i4").tobytes())
        columns.append(_array(rows.labels.astype(np.int32)))
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
            return
        if self._pending:
            self._write(whole_batches_only=False)
        self._writer.close()
        self._file.stream.flush()
        self.record = SplitRecord(
            f"{self.split}.arrow",
            self.rows,
            self._file.stream.tell(),
            self._file.sha256(),
            self._digest.hexdigest(),
        )

    def discard(self) -> None:
        """Discard the file, unless it was published."""
        self._file.close()

    def publish(self, folder: Path) -> None:
        """Give the file its name in the folder."""
        assert self.record is not None
        self._file.publish(folder / self.record.file)


class Split:
    """One split, memory-mapped: `len(split)` rows, `split[i]` = (tuple of token arrays, label).

    The arrays are views of the map, whose pages are shared by all processes. Opening reads only the footer and a few
    pages, whatever the size. Raises DataError if the file is missing, truncated, or does not match the record and the
    task.
    """

    def __init__(self, path: Path, info: TaskInfo, record: SplitRecord) -> None:
        self.path = path
        self.info = info
        self.record = record
        if not path.is_file():
            raise DataError(f"{path} is missing; prepare {info.name} again")
        if path.stat().st_size != record.bytes:
            raise self._damaged(f"{path.stat().st_size} bytes, the manifest records {record.bytes}")
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a flipped byte in a name
            raise self._damaged(str(error).splitlines()[0]) from None
        if reader.schema != _schema(info):
            raise self._damaged("its columns are not the task's")
        if sum(batch.num_rows for batch in batches) != record.rows:
            raise self._damaged(
                f"{sum(batch.num_rows for batch in batches)} rows, the manifest records {record.rows}"
            )
        if any(batch.num_rows != ROWS_PER_BATCH for batch in batches[:-1]):
            raise self._damaged(f"record batches not of {ROWS_PER_BATCH} rows")
        self._batches = batches
        self._values = [
            [_view(batch.column(document).values) for document in range(info.num_documents)]
            for batch in batches
        ]
        self._offsets = [
            [_view(batch.column(document).offsets) for document in range(info.num_documents)]
            for batch in batches
        ]

    def _damaged(self, why: str) -> DataError:
        return DataError(
            f"{self.path} is damaged: {why}; delete {self.path.parent} and prepare {self.info.name} again"
        )

    def __len__(self) -> int:
        return self.record.rows

    def __getitem__(self, row: int) -> tuple[tuple[NDArray[np.integer], ...], int]:
        if not 0 <= row < len(self):
            raise IndexError(row)
        batch, index = divmod(row, ROWS_PER_BATCH)
        documents = tuple(
            values[offsets[index] : offsets[index + 1]]
            for values, offsets in zip(self._values[batch], self._offsets[batch], strict=True)
        )
        return documents, int(self.labels[row])

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Class of every row."""
        columns = [_view(batch.column("label")) for batch in self._batches]
        return np.concatenate([np.zeros(0, np.int32), *columns])

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Number of tokens of every row; for two documents that of the longer one."""
        columns = [np.max([np.diff(offsets) for offsets in documents], axis=0) for documents in self._offsets]
        return np.concatenate([np.zeros(0, np.int32), *columns])

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read and check the whole file. Raises DataError with both sha256 if a byte differs, or if Arrow's validation or
        the task's ranges fail."""
        actual = file_sha256(self.path)
        if actual != self.record.sha256:
            raise self._damaged(f"sha256 {actual}, the manifest records {self.record.sha256}")
        for index, batch in enumerate(self._batches):
            try:
                batch.validate(full=True)
            except pa.ArrowException as error:
                raise self._damaged(str(error).splitlines()[0]) from None
            for values in self._values[index]:
                if values.max(initial=0) >= self.info.vocab_size:
                    raise self._damaged(f"token id {values.max()}, ids are below {self.info.vocab_size}")
            if progress is not None:
                progress(min((index + 1) * ROWS_PER_BATCH, len(self)), len(self))
