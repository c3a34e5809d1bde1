"""The shipping child process: it does not block the driver, ends with it, and reports errors in one line."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from proxytune.tuning.errors import InputError
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.spec.locations import artifact_root, check_uri, default_uri
from proxytune.tuning.tracking.acknowledgement import Acknowledgement, last_error, num_waiting
from proxytune.tuning.tracking.mlflow_server import server_command
from proxytune.tuning.tracking.shipper import Shipper
from proxytune.tuning.tracking.shipping import explain, scratch
from tests.benchmarks.synthetic import synthetic_events
from tests.tuning.tracking.syncing import Fill, synced, wait_for


def shippers_of(pid: int) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(pid).children()
        if "proxytune.tuning.tracking.shipping" in child.cmdline()
    ]


@pytest.mark.slow
def test_killed_shipper_is_restarted_and_ships_all_events(outbox_folder: Path, uri: str, store: Any) -> None:
    events = list(synthetic_events(6, steps=100, seed=5))
    outbox = Outbox(outbox_folder)
    shipper = Shipper(outbox_folder, uri, "proxytune")
    shipper.start()
    for event in events[: len(events) // 2]:
        outbox.append(event)
    wait_for(lambda: shipper.waiting == 0)
    (child,) = shippers_of(os.getpid())
    child.kill()
    child.wait()
    for event in events[len(events) // 2 :]:
        outbox.append(event)
    assert shipper.waiting == num_waiting(outbox_folder, uri, "proxytune") > 0
    wait_for(lambda: shippers_of(os.getpid()) and shippers_of(os.getpid())[0].pid != child.pid)
    assert shipper.close(600) == 0
    assert shipper.error is None
    assert num_waiting(outbox_folder, uri, "proxytune") == 0
    assert shippers_of(os.getpid()) == []
    outbox.close()
    assert store.differences(outbox_folder) == {}


def test_temporary_files_of_a_killed_shipper_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "acknowledged.scratch"
    leftover = folder / "tmpabc"
    leftover.mkdir(parents=True)
    (leftover / "report.html").write_text("partial page")
    monkeypatch.setattr(tempfile, "tempdir", None)
    with scratch(folder):
        assert not leftover.exists()
        with tempfile.TemporaryDirectory() as created:
            assert Path(created).parent == folder
    assert list(tmp_path.iterdir()) == []


PARENT = """
import sys, time
from pathlib import Path
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.tracking.shipper import Shipper
outbox = Outbox(Path(sys.argv[1]))
shipper = Shipper(Path(sys.argv[1]), sys.argv[2], "proxytune")
shipper.start()
print({"mlflow", "pandas"} & sys.modules.keys() or "started", flush=True)
while not shipper.error:
    time.sleep(0.05)
print(shipper.error, flush=True)
time.sleep(600)
"""


def test_shipper_reports_an_unusable_store_and_ends_with_its_parent(
    fill: Fill, outbox_folder: Path, tmp_path: Path
) -> None:
    fill(synthetic_events(2, steps=100))
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    uri = f"sqlite:///{blocker}/mlflow.db"
    parent = subprocess.Popen(
        [sys.executable, "-Pc", PARENT, outbox_folder, uri], stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n", "the driver itself must not import MLflow"
        error = parent.stdout.readline().strip()
        assert "its folder must exist and be writable" in error
        wait_for(lambda: last_error(outbox_folder, uri, "proxytune") == error)
        (child,) = shippers_of(parent.pid)
    finally:
        parent.kill()
        parent.communicate()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_close_ends_the_child_after_its_timeout(fill: Fill, outbox_folder: Path, uri: str) -> None:
    fill(synthetic_events(2, steps=100))
    shipper = Shipper(outbox_folder, uri, "proxytune")
    shipper.start()
    wait_for(lambda: shippers_of(os.getpid()))
    assert shipper.close(0.0) == shipper.waiting > 0, "events were shipped before MLflow was imported"
    assert shippers_of(os.getpid()) == []


@pytest.mark.slow
def test_read_only_disk_is_reported_and_events_ship_later(storage: Path, uri: str, store: Any) -> None:
    """MLflow's store is read-only: by permissions, or for root, which they do not restrict, by a mount."""
    script = """
import sys, time
from pathlib import Path
sys.path.append(sys.argv[3])
from tests.benchmarks.synthetic import synthetic_events
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.tracking.shipper import Shipper
outbox = Outbox(Path(sys.argv[1]))
shipper = Shipper(Path(sys.argv[1]), sys.argv[2], "proxytune")
shipper.start()
for event in synthetic_events(3, steps=100):
    outbox.append(event)
while not shipper.error:
    time.sleep(0.05)
outbox.close()
print(shipper.error)
print(shipper.close(1))
"""
    folder = storage.parent / "other" / "study" / "outbox"
    command = [sys.executable, "-Pc", script, str(folder), uri, str(Path(__file__).parents[3])]
    if os.getuid() == 0:
        mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
        inside = ["unshare", "--mount", "sh", "-c"]
        if subprocess.run([*inside, mount, str(storage)], capture_output=True, check=False).returncode:
            pytest.skip("this container does not permit read-only mounts")
        command = [*inside, f'{mount} && exec "$@"', str(storage), *command]
    else:
        (storage / "mlflow.db").chmod(0o444)
        storage.chmod(0o555)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    storage.chmod(0o755)
    (storage / "mlflow.db").chmod(0o644)
    assert done.returncode == 0, done.stderr
    line, waiting = done.stdout.splitlines()
    assert line == (
        f"MLflow at {uri} is on a read-only disk; make it writable or set another tracking.uri. "
        "Events remain in the outbox until then"
    )
    assert int(waiting) > 0
    synced(folder, uri)
    assert store.differences(folder) == {}


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:secret@host:5000",
        "postgresql://user:secret@host/db",
        "postgresql+psycopg://:secret@host/db",
        "postgresql+psycopg://user:se/cret@word@host/db",
        "postgresql://user@host/db?sslmode=require&password=secret",
        "./mlruns",
        "sqlite:///relative.db",
        "file:///tmp/mlruns",
    ],
)
def test_invalid_uri_is_rejected_without_repeating_its_password(uri: str) -> None:
    with pytest.raises(InputError) as caught:
        check_uri(uri)
    for part in ("secret", "cret", "word@"):
        assert part not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_postgresql_uri_selects_psycopg() -> None:
    assert check_uri("postgresql://user@host/db") == "postgresql+psycopg://user@host/db"


def test_artifact_root_is_beside_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_uri(Path("studies")) == f"sqlite:///{tmp_path}/studies/mlflow.db"
    assert artifact_root(default_uri(Path("studies")), tmp_path) == f"{tmp_path}/studies/mlartifacts"
    assert (
        artifact_root("postgresql+psycopg://h/d", tmp_path / "studies") == f"{tmp_path}/studies/mlartifacts"
    )
    assert artifact_root("https://host", tmp_path) is None


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("(sqlite3.OperationalError) attempt to write a readonly database", "make it writable"),
        ("(sqlite3.OperationalError) database is locked", "close that program"),
        ("[Errno 28] No space left on device", "free some space"),
        (
            "API request to endpoint /x failed with error code 403 != 200. Response: 'Invalid Host header'",
            "--allowed-hosts",
        ),
        (
            "API request to endpoint /x failed with error code 403 != 200. Response: 'Permission denied'",
            "EDIT permission",
        ),
        ("an unknown error\nin two lines", "an unknown error in two lines"),
    ],
)
def test_error_is_explained_in_one_line(error: str, advice: str) -> None:
    line = explain(RuntimeError(error), Acknowledgement("http://host", "proxytune"))
    assert advice in line
    assert "\n" not in line


def test_server_command_accepts_stores_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is already a server"):
        server_command("http://host:5000", tmp_path)
    command = server_command("sqlite:////tmp/mlflow.db", tmp_path, port=5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false" in command
