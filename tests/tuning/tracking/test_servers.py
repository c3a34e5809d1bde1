"""Tracking to an MLflow server that is unavailable, hangs, fails or denies access, and to PostgreSQL."""

import base64
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import JOURNAL
from proxytune.tuning.tracking.acknowledgement import Acknowledgement
from proxytune.tuning.tracking.mlflow_sync import MlflowSync
from proxytune.tuning.tracking.shipper import Shipper
from proxytune.tuning.tracking.shipping import explain
from tests.benchmarks.synthetic import synthetic_events
from tests.tuning.tracking.servers import MlflowServer
from tests.tuning.tracking.syncing import Fill, synced, wait_for


@pytest.fixture
def server(storage: Path, uri: str) -> Iterator[Any]:
    server = MlflowServer(uri, storage / "mlartifacts")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_server_that_starts_late_receives_all_events(
    storage: Path, uri: str, outbox_folder: Path, store: Any, short_timeouts: None
) -> None:
    """The server starts after the events were written. Writing them does not block."""
    server = MlflowServer(uri, storage / "mlartifacts")
    outbox = Outbox(outbox_folder)
    shipper = Shipper(outbox_folder, server.url, "proxytune")
    shipper.start()
    for event in synthetic_events(5, steps=100):
        outbox.append(event)
    wait_for(lambda: shipper.error)
    assert shipper.error == (
        f"MLflow at {server.url} cannot be reached; start the server or correct the address. "
        "Events remain in the outbox until then"
    )
    assert shipper.waiting > 0
    server.start()
    assert shipper.close(600) == 0
    assert shipper.error is None
    server.stop()
    outbox.close()
    assert store.differences(outbox_folder) == {}
    (run, *_) = store.trials().values()
    assert run.info.artifact_uri.startswith("mlflow-artifacts:"), "artifacts are uploaded to the server"
    assert list((storage / "mlartifacts").rglob("config.json"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_repeatedly_killed_and_suspended_server_loses_nothing(
    server: Any, outbox_folder: Path, store: Any, short_timeouts: None
) -> None:
    """SIGKILL and SIGSTOP during shipping. A resumed server also executes requests that have timed out."""
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
    assert shipper.close(600) == 0
    outbox.close()
    assert store.differences(outbox_folder) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_shipper_waits_for_a_locked_database(
    server: Any, storage: Path, outbox_folder: Path, store: Any, uri: str
) -> None:
    """The server returns status 500 after 20 s while sqlite's lock is held."""
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
    assert shipper.close(600) == 0
    outbox.close()
    assert store.differences(outbox_folder) == {}


ADMIN = ("admin", "canary-9vQmLw7")
READER = ("reader", "canary-Reader-7")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, empty_mlflow_database: Path) -> Iterator[Any]:
    """A server with basic authentication; the user `reader` has read access only."""
    folder = tmp_path_factory.mktemp("guarded")
    shutil.copy(empty_mlflow_database, folder / "mlflow.db")
    config = folder / "auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    server = MlflowServer(
        f"sqlite:///{folder}/mlflow.db",
        folder / "mlartifacts",
        *("--app-name", "basic-auth"),
        environment={"MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32},
    )
    server.start()
    request = urllib.request.Request(
        f"{server.url}/api/2.0/mlflow/users/create",
        json.dumps(dict(zip(("username", "password"), READER, strict=True))).encode(),
        {
            "Content-Type": "application/json",
            "Authorization": "Basic " + base64.b64encode(":".join(ADMIN).encode()).decode(),
        },
    )
    urllib.request.urlopen(request, timeout=300).close()
    yield server
    server.stop()


@pytest.fixture
def log_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    def log_in(user: str, password: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    return log_in


def shipping_error(outbox_folder: Path, url: str, experiment: str) -> str:
    """The line that the shipper reports when shipping fails."""
    sync = MlflowSync(outbox_folder, url, experiment)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MLflow's errors have no common base
        sync.ship()
    assert Acknowledgement.load(outbox_folder, url, experiment).offset == 0
    return explain(caught.value, sync.acknowledged)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_wrong_password_is_reported_and_the_right_one_ships(
    guarded: Any, outbox_folder: Path, log_in: Any, make_store: Any, fill: Fill
) -> None:
    fill(synthetic_events(1, steps=100))
    advice = (
        f"MLflow at {guarded.url} refuses the name or password; set MLFLOW_TRACKING_USERNAME and _PASSWORD"
    )
    assert shipping_error(outbox_folder, guarded.url, "passwords").startswith(advice), "without a user name"
    log_in("admin", "wrong")
    assert shipping_error(outbox_folder, guarded.url, "passwords").startswith(advice)
    shipper = Shipper(outbox_folder, guarded.url, "passwords")
    shipper.start()
    wait_for(lambda: shipper.error)
    assert str(shipper.error).startswith(advice)
    assert shipper.close(1) > 0
    log_in(*ADMIN)
    shipper = Shipper(outbox_folder, guarded.url, "passwords")
    shipper.start()
    wait_for(lambda: shipper.waiting == 0)
    command_lines = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    assert shipper.close(600) == 0
    assert shipper.error is None
    assert make_store(guarded.url, "passwords").differences(outbox_folder) == {}
    assert ADMIN[1] not in command_lines
    written = [path for path in outbox_folder.iterdir() if path.is_file()]
    assert not [path for path in written if ADMIN[1].encode() in path.read_bytes()]
    (database,) = Path(guarded.log_path).parent.glob("mlflow.db")
    assert ADMIN[1].encode() not in database.read_bytes()


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_read_only_user_is_advised_to_ask_for_edit_permission(
    guarded: Any, outbox_folder: Path, log_in: Any, fill: Fill
) -> None:
    fill(synthetic_events(1, steps=100))
    log_in(*ADMIN)
    MlflowClient(guarded.url).create_experiment("of-admin")
    log_in(*READER)
    line = shipping_error(outbox_folder, guarded.url, "of-admin")
    assert line.startswith(f"MLflow at {guarded.url} forbids this user to write; ask for the EDIT permission")


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_host_name_that_the_server_rejects_is_reported(
    guarded: Any, outbox_folder: Path, log_in: Any, fill: Fill
) -> None:
    fill(synthetic_events(1, steps=100))
    log_in(*ADMIN)
    line = shipping_error(outbox_folder, f"http://127.1:{guarded.port}", "hosts")  # another name of loopback
    assert "start the server with it in --allowed-hosts" in line


def test_deleted_experiment_is_reported_and_ships_once_restored(
    uri: str, storage: Path, outbox_folder: Path, fill: Fill, make_store: Any
) -> None:
    client = MlflowClient(uri)
    identifier = client.create_experiment("deleted", str(storage / "mlartifacts"))
    client.delete_experiment(identifier)
    fill(synthetic_events(1, steps=100))
    line = shipping_error(outbox_folder, uri, "deleted")
    assert line == (
        "experiment deleted was deleted in MLflow; restore it with `mlflow experiments restore "
        f"--experiment-id {identifier}`, or set another tracking.experiment"
    )
    client.restore_experiment(identifier)
    synced(outbox_folder, uri, "deleted")
    assert make_store(uri, "deleted").differences(outbox_folder) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ui_server_rejects_foreign_hosts_and_origins(server: Any) -> None:
    """MLflow itself accepts every port of localhost as an origin, regardless of its options."""

    def status(path: str, method: str = "GET", **headers: str) -> int:
        request = urllib.request.Request(server.url + path, method=method, headers=headers)
        if method == "POST":
            request.data = b'{"max_results": 1}'
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    search = "/api/2.0/mlflow/experiments/search"
    assert status(search, "POST") == 200
    assert status(search, "POST", Host="evil.example") == 403
    assert status(search, "POST", Host="192.168.0.9") == 403
    assert status(search, "POST", Origin="http://evil.example") == 403
    assert status("/ajax-api/3.0/jobs/", "POST") not in (200, 201)
    with urllib.request.urlopen(server.url, timeout=300) as answer:
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_postgresql_crash_loses_and_duplicates_nothing(
    postgres: Any, outbox_folder: Path, make_store: Any
) -> None:
    outbox = Outbox(outbox_folder)
    shipper = Shipper(outbox_folder, postgres.uri, "proxytune")
    shipper.start()
    events = list(synthetic_events(12, steps=400, seed=4))
    for index, event in enumerate(events):
        outbox.append(event)
        if index == len(events) // 3:
            wait_for(lambda: shipper.waiting == 0)
        if index == len(events) // 2:
            postgres.crash()
            wait_for(lambda: shipper.error)
            assert "cannot be reached" in str(shipper.error), shipper.error
            postgres.start()
    assert shipper.close(600) == 0
    outbox.close()
    assert make_store(postgres.uri).differences(outbox_folder) == {}
    assert (outbox_folder.parents[1] / "mlartifacts").is_dir(), "artifacts belong beside the studies"
    for path in outbox_folder.iterdir():
        assert postgres.PASSWORD.encode() not in path.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_missing_postgresql_password_is_reported(
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
