"""A study whose MLflow server is unavailable, fails or hangs, and whose databases are locked."""

import contextlib
import http.server
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from proxytune.tuning.journal.reading import JOURNAL
from proxytune.tuning.spec.locations import default_uri
from proxytune.tuning.tracking.acknowledgement import Acknowledgement
from tests.tuning.tracking.servers import MlflowServer

FAULT_SECONDS = 60.0


class FailingHandler(http.server.BaseHTTPRequestHandler):
    """Replaces the server and responds to every request with status 500."""

    num_requests = 0

    def _fail(self) -> None:
        type(self).num_requests += 1
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _fail  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def killed(server: Any, seconds: float) -> Iterator[None]:
    server.stop()
    time.sleep(seconds)
    yield
    server.start()


@contextlib.contextmanager
def failing(server: Any, seconds: float) -> Iterator[None]:
    server.stop()
    with http.server.ThreadingHTTPServer(("127.0.0.1", server.port), FailingHandler) as replacement:
        threading.Thread(target=replacement.serve_forever, daemon=True).start()
        time.sleep(seconds)
        assert FailingHandler.num_requests
        replacement.shutdown()
    yield
    server.start()


@contextlib.contextmanager
def hanging(server: Any, seconds: float) -> Iterator[None]:
    server.send(signal.SIGSTOP)
    time.sleep(seconds)
    yield
    server.send(signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_study_continues_while_mlflow_is_unavailable(
    study: Any, mlflow_points: Callable[..., Any], record: Callable[..., None]
) -> None:
    """The server is killed, responds with status 500, and hangs, one minute each, during one long study."""
    study.storage.mkdir()
    uri = default_uri(study.storage)
    server = MlflowServer(uri, study.storage / "mlartifacts")
    server.start()
    try:
        driver = study.start(
            *("--set", f"tracking.uri={server.url}"),
            *("--set", "training.steps=1000000", "--set", "training.eval_every=100"),
        )
        study.wait(lambda: study.events("report"), driver, 300)
        reports, seconds = [len(study.events("report"))], []
        for fault in (killed, failing, hanging):
            with fault(server, FAULT_SECONDS):
                reports.append(len(study.events("report")))
            end = study.outbox.joinpath(JOURNAL).stat().st_size

            def shipped(end: int = end) -> bool:
                return Acknowledgement.load(study.outbox, server.url, "proxytune").offset >= end

            seconds.append(study.wait(shipped, driver, 240))
        assert all(later > earlier for earlier, later in pairwise(reports)), reports
        driver.send_signal(signal.SIGINT)
        assert driver.wait(240) == 75, study.log_tail()
        server.stop()
        shipped_points, duplicated = mlflow_points(uri)
        journal_points = {
            (f"small/{event.trial}", metric, event.step)
            for event in study.events("report")
            for metric in event.metrics
        }
        lost = len(journal_points - shipped_points)
        assert (lost, duplicated) == (0, 0)
        for fault_name, shipping_seconds, (earlier, later) in zip(
            ("killed", "answering 500", "hanging (SIGSTOP)"), seconds, pairwise(reports), strict=True
        ):
            record(
                f"MLflow {fault_name} for {FAULT_SECONDS:g} s",
                injected=1,
                lost=lost,
                duplicated=duplicated,
                seconds=shipping_seconds,
                result=f"{later - earlier} evaluations during the fault; every point is in MLflow once",
                part=fault_name,
            )
    finally:
        with contextlib.suppress(ProcessLookupError, AssertionError):
            server.send(signal.SIGCONT)
        server.stop()


@pytest.mark.slow
def test_study_waits_for_locked_databases(study: Any, record: Callable[..., None]) -> None:
    driver = study.start()
    study.wait(lambda: study.events("report"), driver, 240)
    for path in (study.storage / "small" / "study.db", study.storage / "mlflow.db"):
        with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(15)
            connection.execute("ROLLBACK")
    began = time.monotonic()
    assert driver.wait(240) == 0, study.log_tail()
    seconds = time.monotonic() - began
    counted = study.lost_and_duplicated()
    assert counted == {"lost": 0, "duplicated": 0}
    record(
        "sqlite locked for 15 s: the study's database, then MLflow's",
        injected=2,
        **counted,
        seconds=seconds,
        result="the study waits",
    )
