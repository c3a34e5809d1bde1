"""The lease and its fencing: one driver per study, takeover from a dead driver, no writes after the lease is lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from proxytune.tuning.errors import HeldError
from proxytune.tuning.store import lease as module
from proxytune.tuning.store.database import open_storage
from proxytune.tuning.store.lease import Lease, driver_of
from proxytune.tuning.store.process import ProcessIdentity, process_age
from proxytune.tuning.store.tables import drivers

HOLD = """
import sys, time
from proxytune.tuning.store import lease as module
from proxytune.tuning.store.database import open_storage
module.RENEWAL_SECONDS = 0.3
lease = module.Lease(open_storage(sys.argv[1], create=True), "a")
lease.acquire()
print("acquired", flush=True)
time.sleep(600)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def holder(url: str, request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lease of study a; the test's parameter is a prefix of its command."""
    prefix = getattr(request, "param", [])
    process = subprocess.Popen(
        [*prefix, sys.executable, "-P", "-c", HOLD, url],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "acquired\n"
    yield process
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_second_acquire_raises_and_names_the_holder(url: str) -> None:
    first = Lease(open_storage(url, create=True), "a")
    first.acquire()
    with pytest.raises(HeldError, match=f"process {os.getpid()} on"):
        Lease(open_storage(url, create=True), "a").acquire()
    Lease(open_storage(url, create=True), "b").acquire()
    first.release()
    second = Lease(open_storage(url, create=True), "a")
    second.acquire()
    assert second.epoch == first.epoch + 1


def test_rejected_acquire_changes_nothing(url: str) -> None:
    storage = open_storage(url, create=True)
    lease = Lease(storage, "a")
    lease.acquire()

    def rows() -> list[tuple[object, ...]]:
        with storage.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.select(drivers))]

    before = rows()
    with pytest.raises(HeldError):
        Lease(open_storage(url, create=True), "a").acquire()
    assert rows() == before
    lease.check()


def test_lease_of_a_killed_process_is_taken_over_immediately(url: str, holder, monkeypatch) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 10_000.0)
    with pytest.raises(HeldError, match=f"process {holder.pid} on"):
        Lease(open_storage(url, create=True), "a").acquire()
    holder.kill()
    holder.wait()
    assert driver_of(open_storage(url, create=False), "a") is None
    Lease(open_storage(url, create=True), "a").acquire()


def test_reused_process_id_is_not_mistaken_for_the_holder() -> None:
    own = ProcessIdentity.own()
    assert own.is_running()
    assert ProcessIdentity(own.host, own.pid, own.place, own.started - 1).is_running() is False
    assert ProcessIdentity(own.host, own.pid, "another boot", own.started).is_running() is None
    assert 0 < process_age() < 7 * 86400


UNSHARE = [] if shutil.which("unshare") is None else ["unshare", "--pid", "--fork", "--mount-proc"]


@pytest.mark.skipif(
    not UNSHARE or os.getuid() != 0, reason="creating a PID namespace requires util-linux and root"
)
@pytest.mark.parametrize("holder", [UNSHARE], indirect=True, ids=["in another PID namespace"])
def test_driver_in_another_pid_namespace_keeps_its_lease(url: str, holder) -> None:
    """Its process id is meaningless here: another process of this namespace may have it."""
    storage = open_storage(url, create=True)
    assert driver_of(storage, "a") is not None
    with pytest.raises(HeldError, match="is held by process"):
        Lease(storage, "a").acquire()
    assert holder.poll() is None
    with storage.engine.connect() as connection:
        epoch = connection.execute(sa.select(drivers.c.epoch)).scalar()
    assert epoch == 1, "the rejected acquire had an effect"


@pytest.mark.parametrize("renewed", ["1970-01-01 00:00:00", "2999-01-01 00:00:00"])
def test_invisible_holder_keeps_a_renewed_lease_despite_clock_skew(
    url: str, monkeypatch, renewed: str
) -> None:
    monkeypatch.setattr(module, "RENEWAL_SECONDS", 0.3)
    storage = open_storage(url, create=True)
    lease = Lease(storage, "a")
    lease.acquire()
    with storage.engine.begin() as connection:
        connection.execute(
            sa.text(f"UPDATE proxytune_driver SET place = 'another boot', renewed = '{renewed}'")
        )
    with pytest.raises(HeldError, match="is held by process"):
        Lease(open_storage(url, create=True), "a").acquire()
    assert not lease.lost


def test_suspended_driver_is_replaced_and_cannot_write_after_waking(url: str, monkeypatch) -> None:
    monkeypatch.setattr(module, "RENEWAL_SECONDS", 10_000.0)  # no renewals, as in a suspended process
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.5)
    storage = open_storage(url, create=True)
    from optuna.study import StudyDirection

    suspended = Lease(storage, "a")
    suspended.acquire()
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "a")
    trial = storage.create_new_trial(study)
    time.sleep(1.1)  # the database's clock has a resolution of one second
    newer = Lease(open_storage(url, create=True), "a")
    newer.acquire()
    for write in (
        lambda: storage.create_new_trial(study),
        lambda: storage.set_trial_intermediate_value(trial, 1, 0.5),
        lambda: storage.set_study_user_attr(study, "key", "value"),
    ):
        with pytest.raises(HeldError, match="taken over by another driver"):
            write()
    suspended.release()
    newer.check()
    reader = open_storage(url, create=False)
    assert reader.get_n_trials(study) == 1
    assert reader.get_trial(trial).intermediate_values == {}
    assert reader.get_study_user_attrs(study) == {}


def test_replaced_holder_calls_on_lost(url: str, monkeypatch) -> None:
    monkeypatch.setattr(module, "RENEWAL_SECONDS", 0.2)
    lost: list[str] = []
    lease = Lease(open_storage(url, create=True), "a")
    lease.on_lost = lambda: lost.append("on_lost")
    lease.acquire()
    with open_storage(url, create=True).engine.begin() as connection:
        connection.execute(drivers.update().values(epoch=7))
    deadline = time.monotonic() + 300
    while not lost and time.monotonic() < deadline:
        time.sleep(0.05)
    assert lease.lost
    assert lost == ["on_lost"]


def test_connection_lost_in_a_transaction_raises_its_own_error(url: str) -> None:
    """SQLAlchemy also invalidates a connection when a signal handler raises in it."""
    storage = open_storage(url, create=True)
    lease = Lease(storage, "a")
    lease.acquire()

    def lose_connection() -> None:
        with storage.engine.begin() as connection:
            connection.execute(drivers.insert().values(study="b", epoch=0, held=False, renewed=sa.func.now()))
            connection.invalidate()
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        lose_connection()
    lease.check()
    lease.release()
