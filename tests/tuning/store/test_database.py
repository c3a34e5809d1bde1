"""The lease: one driver a study, and none locked out by a dead one."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxytune.tuning.errors import HeldError, InputError, StorageError
from proxytune.tuning.store import lease as module
from proxytune.tuning.store.database import open_storage
from proxytune.tuning.store.lease import Lease


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def test_a_second_driver_is_told_who_holds_the_study(url: str) -> None:
    first = Lease(open_storage(url, create=True), "a")
    first.acquire()
    with pytest.raises(HeldError, match=f"process {os.getpid()} on"):
        Lease(open_storage(url, create=True), "a").acquire()
    Lease(open_storage(url, create=True), "b").acquire()
    first.release()
    Lease(open_storage(url, create=True), "a").acquire()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(url: str) -> None:
    script = (
        "import os, sys\nfrom proxytune.tuning.store.database import open_storage\n"
        "from proxytune.tuning.store.lease import Lease\n"
        "Lease(open_storage(sys.argv[1], create=True), 'a').acquire()\nos.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-P", "-c", script, url], check=False)
    assert killed.returncode == -9
    Lease(open_storage(url, create=True), "a").acquire()


def test_the_lease_of_another_machine_runs_out_and_its_holder_notices(url: str, monkeypatch) -> None:
    monkeypatch.setattr(module, "RENEWAL_SECONDS", 0.2)
    storage = open_storage(url, create=True)
    sleeper = Lease(storage, "a")
    lost: list[str] = []
    sleeper.on_lost = lambda: lost.append("told")
    sleeper.acquire()
    with storage.engine.begin() as connection:  # as after a long sleep on another machine
        connection.execute(module.leases.update().values(host="elsewhere", expires=time.time() - 1))
    monkeypatch.setattr(module, "_gone", lambda *_: False)
    deadline = time.monotonic() + 30
    taken = False
    while not taken and time.monotonic() < deadline:
        try:
            with storage.engine.begin() as connection:
                connection.execute(module.leases.update().values(expires=time.time() - 1))
            Lease(open_storage(url, create=True), "a").acquire()
            taken = True
        except HeldError:  # renewed in between
            continue
    assert taken
    while not lost and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sleeper.lost
    assert lost == ["told"]


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an SQLAlchemy URL"):
        open_storage("nonsense", create=True)
    with pytest.raises(InputError, match="no study there"):
        open_storage(f"sqlite:///{tmp_path / 'none.db'}", create=False)
    (tmp_path / "broken.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match="not a database"):
        open_storage(f"sqlite:///{tmp_path / 'broken.db'}", create=True)
    with pytest.raises(StorageError) as caught:
        open_storage("postgresql+psycopg://me:secret@127.0.0.1:1/x", create=True)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match="file is not a database"):
        open_storage(f"sqlite:///{tmp_path / 'study.db'}", create=False)
