"""MLflow that is away, fails or hangs, and databases that are locked, while a study runs."""

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

AWAY_SECONDS = 60.0


class Failing(http.server.BaseHTTPRequestHandler):
    """Stands in a dead server's place and answers 500 to everything."""

    asked = 0

    def _fail(self) -> None:
        type(self).asked += 1
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
    with http.server.ThreadingHTTPServer(("127.0.0.1", server.port), Failing) as stand_in:
        threading.Thread(target=stand_in.serve_forever, daemon=True).start()
        time.sleep(seconds)
        assert Failing.asked
        stand_in.shutdown()
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
def test_a_study_does_not_notice_that_mlflow_is_away(
    study: Any, mlflow_points: Callable[..., Any], record: Callable[..., None]
) -> None:
    """Killed, answering 500, hanging: a minute each, in one study that is long enough for all three."""
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
        for away in (killed, failing, hanging):
            with away(server, AWAY_SECONDS):
                reports.append(len(study.events("report")))
            behind = study.outbox.joinpath(JOURNAL).stat().st_size

            def shipped(behind: int = behind) -> bool:
                return Acknowledgement.load(study.outbox, server.url, "proxytune").offset >= behind

            seconds.append(study.wait(shipped, driver, 240))
        assert all(later > earlier for earlier, later in pairwise(reports)), reports
        driver.send_signal(signal.SIGINT)
        assert driver.wait(240) == 75, study.said()
        server.stop()
        held, doubled = mlflow_points(uri)
        said = {
            (f"small/{event['trial']}", metric, event.step)
            for event in study.events("report")
            for metric in event.metrics
        }
        lost = len(said - held)
        assert (lost, doubled) == (0, 0)
        for what, took, (earlier, later) in zip(
            ("killed", "answering 500", "hanging (SIGSTOP)"), seconds, pairwise(reports), strict=True
        ):
            record(
                f"MLflow {what} for {AWAY_SECONDS:g} s",
                injected=1,
                lost=lost,
                doubled=doubled,
                seconds=took,
                seen=f"{later - earlier} evaluations meanwhile; every point is in MLflow once",
                part=what,
            )
    finally:
        with contextlib.suppress(ProcessLookupError, AssertionError):
            server.send(signal.SIGCONT)
        server.stop()


@pytest.mark.slow
def test_locked_databases_are_waited_for(study: Any, record: Callable[..., None]) -> None:
    driver = study.start()
    study.wait(lambda: study.events("report"), driver, 240)
    for path in (study.storage / "small" / "study.db", study.storage / "mlflow.db"):
        with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(15)
            connection.execute("ROLLBACK")
    began = time.monotonic()
    assert driver.wait(240) == 0, study.said()
    seconds = time.monotonic() - began
    counted = study.lost_and_doubled()
    assert counted == {"lost": 0, "doubled": 0}
    record(
        "sqlite locked for 15 s: the study's database, then MLflow's",
        injected=2,
        **counted,
        seconds=seconds,
        seen="waited for",
    )
