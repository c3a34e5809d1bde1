"""The child process that ships an outbox to MLflow: `python -m proxytune.tuning.tracking.shipping FOLDER URI EXPERIMENT`.

It ends when its standard input is closed and no events are pending, or immediately when its parent has ended. Errors of
MLflow are reported to the parent, saved beside the outbox for `proxytune show`, and retried without limit.
"""

import json
import logging
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import tenacity
from filelock import FileLock
from sqlalchemy import Engine, event

from proxytune.tuning.errors import one_line
from proxytune.tuning.tracking.acknowledgement import Acknowledgement
from proxytune.tuning.tracking.artifacts import follow_move
from proxytune.tuning.tracking.mlflow_private import open_databases_once
from proxytune.tuning.tracking.mlflow_runs import Blocked
from proxytune.tuning.tracking.mlflow_sync import MlflowSync

POLL_SECONDS = 0.5
SWEEP_SECONDS = 60
MAX_PAUSE_SECONDS = 30  # between two attempts while MLflow is unavailable


def ship_all(sync: MlflowSync, finish: threading.Event, report: Callable[[str | None], None]) -> None:
    """Ship until `finish` is set and no events are pending. Errors are reported and retried with increasing pauses."""

    def report_error(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            text = explain(error, sync.acknowledged)
            report(text)
            with suppress(OSError):  # the disk may be the cause of the error
                sync.save_error(text)

    def ship_portion() -> bool:
        shipped = sync.ship()
        if sync.unacknowledged:
            settle_sqlite(sync.acknowledged.uri)
            sync.acknowledge()
        return shipped

    def pause(seconds: float) -> None:
        if finish.is_set():
            time.sleep(min(seconds, 1))
        else:
            finish.wait(seconds)

    retrying = tenacity.Retrying(
        wait=tenacity.wait_exponential_jitter(initial=0.5, max=MAX_PAUSE_SECONDS),
        sleep=pause,
        before_sleep=report_error,
    )
    next_sweep = time.monotonic() + SWEEP_SECONDS
    while True:
        is_last = finish.is_set()
        while retrying(ship_portion):
            report(sync.notice)
        if is_last or time.monotonic() > next_sweep:
            retrying(sync.remove_twins)
            next_sweep = time.monotonic() + SWEEP_SECONDS
        if is_last:
            return
        finish.wait(POLL_SECONDS)


ADVICE = (  # (pattern of the error's text, its meaning and what to do)
    (r"\b401\b|UNAUTHENTICATED", "refuses the name or password; set MLFLOW_TRACKING_USERNAME and _PASSWORD"),
    (r"Invalid Host", "refuses this host name; start the server with it in --allowed-hosts"),
    (
        r"\b403\b|PERMISSION_DENIED",
        "forbids this user to write; ask for the EDIT permission on the experiment",
    ),
    (
        r"readonly database|[Rr]ead-only",
        "is on a read-only disk; make it writable or set another tracking.uri",
    ),
    (r"No space left|disk is full", "has no space left on its disk; free some space"),
    (r"unable to open database|\[Errno", "cannot be opened; its folder must exist and be writable"),
    (r"database is locked", "is locked by another program; close that program"),
    (r"password authentication failed|no password supplied", "refuses the password; put it in PGPASSFILE"),
    (r"Max retries|[Cc]onnection|timed out", "cannot be reached; start the server or correct the address"),
)


def explain(error: BaseException, destination: Acknowledgement) -> str:
    """A one-line message: the error of the destination, and what to do."""
    if isinstance(error, Blocked):
        return str(error)
    text = one_line(error)
    for pattern, advice in ADVICE:
        if re.search(pattern, text):
            return f"MLflow at {destination.uri} {advice}. Events remain in the outbox until then"
    return f"MLflow at {destination.uri} does not accept events: {text}. They remain in the outbox"


def main(arguments: list[str]) -> None:
    """Ship until standard input is closed by the parent, or the parent has ended."""
    folder, uri, experiment = Path(arguments[0]), arguments[1], arguments[2]
    finish = threading.Event()
    parent = os.getppid()

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    def watch_stdin() -> None:
        while os.read(
            0, 4096
        ):  # not sys.stdin: a thread that holds its lock breaks the interpreter's shutdown
            pass
        finish.set()

    for watch in (watch_parent, watch_stdin):
        threading.Thread(target=watch, daemon=True).start()
    event.listen(Engine, "connect", relax_sqlite)
    open_databases_once()
    logging.getLogger("optuna").setLevel(logging.WARNING)
    destination = Acknowledgement(uri, experiment).path(folder)
    with FileLock(f"{destination}.lock"), scratch(destination.with_suffix(".scratch")):
        with suppress(sqlite3.Error):  # shipping raises and reports the same error
            follow_move(uri)
        sync = MlflowSync(folder, uri, experiment)
        ship_all(sync, finish, lambda error: report_progress(sync, error))


@contextmanager
def scratch(folder: Path) -> Iterator[None]:
    """Use this folder for temporary files of MLflow's client. Files left by a killed shipper are removed first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def relax_sqlite(connection: Any, _: Any) -> None:
    """Make sqlite sync to disk once per portion, in `settle_sqlite`, instead of at each of MLflow's commits."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")


def settle_sqlite(uri: str) -> None:
    """Sync the written events to disk before they are acknowledged."""
    if uri.startswith("sqlite:///"):
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def report_progress(sync: MlflowSync, error: str | None) -> None:
    """Report the shipped offset and the current error to the parent, as a line of JSON."""
    print(json.dumps({"offset": sync.acknowledged.offset, "error": error}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
