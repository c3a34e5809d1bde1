"""Opening of the test split, recorded with user, time and reason."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from proxytune.datasets.arrow_store import Split
from proxytune.datasets.errors import DataError
from proxytune.datasets.prepare import PreparedTask

LOG = "test_openings.jsonl"


def open_test_split(prepared: PreparedTask, *, by: str, reason: str, log_folder: Path | None = None) -> Split:
    """Record the opening, then open and verify the test split.

    A line of JSON is appended to test_openings.jsonl in log_folder, by default beside the prepared data. Raises
    DataError if by or reason is empty, the log cannot be written, or the file is damaged.
    """
    for name, value in (("by", by), ("reason", reason)):
        if not value.strip():
            raise DataError(f"{name} is empty; opening the test split is recorded, give both")
    opening = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": by,
        "reason": reason,
        "task": prepared.info.name,
        "fingerprint": prepared.fingerprint,
    }
    path = (log_folder or prepared.folder) / LOG
    size = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "a") as stream:
            stream.write(json.dumps(opening) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        if path.exists():
            os.truncate(path, size)  # a full disk may have accepted a part of the line
        raise DataError(f"{path}: {error.strerror}; the test split was not opened") from None
    record = prepared.records["test"]
    split = Split(prepared.folder / record.file, prepared.info, record)
    split.verify()
    return split


def recorded_openings(folder: Path) -> list[dict[str, Any]]:
    """Every recorded opening in the folder, oldest first. Raises DataError for a damaged record."""
    path = folder / LOG
    openings = []
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else [], start=1):
        try:
            openings.append(json.loads(line))
        except ValueError:
            raise DataError(f"{path}: line {number} is damaged") from None
    return openings
