"""The lease and its fence: one driver per study, none locked out by a dead one, none that writes after its time."""

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
from proxytune.tuning.store.database import open_storage
from proxytune.tuning.store.lease import Lease
lease = Lease(open_storage(sys.argv[1], create=True), "a")
lease.acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def holder(url: str, request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lease of study a, started with the words of the test's parameter before it."""
    before = getattr(request, "param", [])
    process = subprocess.Popen(
        [*before, sys.executable, "-P", "-c", HOLD, url],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_second_driver_is_told_who_holds_the_study(url: str) -> None:
    first = Lease(open_storage(url, create=True), "a")
    first.acquire()
    with pytest.raises(HeldError, match=f"process {os.getpid()} on"):
        Lease(open_storage(url, create=True), "a").acquire()
    Lease(open_storage(url, create=True), "b").acquire()
    first.release()
    again = Lease(open_storage(url, create=True), "a")
    again.acquire()
    assert again.epoch == first.epoch + 1


def test_a_refused_claim_changes_nothing(url: str) -> None:
    storage = open_storage(url, create=True)
    holding = Lease(storage, "a")
    holding.acquire()

    def rows() -> list[tuple[object, ...]]:
        with storage.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.select(drivers))]

    before = rows()
    with pytest.raises(HeldError):
        Lease(open_storage(url, create=True), "a").acquire()
    assert rows() == before
    holding.check()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(url: str, holder, monkeypatch) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 10_000.0)
    with pytest.raises(HeldError, match=f"process {holder.pid} on"):
        Lease(open_storage(url, create=True), "a").acquire()
    holder.kill()
    holder.wait()
    assert driver_of(open_storage(url, create=False), "a") is None
    Lease(open_storage(url, create=True), "a").acquire()


def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it() -> None:
    own = ProcessIdentity.own()
    assert own.is_running()
    assert ProcessIdentity(own.host, own.pid, own.place, own.started - 1).is_running() is False
    assert ProcessIdentity(own.host, own.pid, "another boot", own.started).is_running() is None
    assert 0 < process_age() < 7 * 86400


UNSHARE = [] if shutil.which("unshare") is None else ["unshare", "--pid", "--fork", "--mount-proc"]


@pytest.mark.skipif(
    not UNSHARE or os.getuid() != 0, reason="making a PID namespace takes util-linux and root"
)
@pytest.mark.parametrize("holder", [UNSHARE], indirect=True, ids=["in another PID namespace"])
def test_a_driver_in_another_pid_namespace_of_this_host_keeps_its_lease(url: str, holder) -> None:
    """Its number means nothing here: process 1 or 2 of this namespace is another one, or there is none."""
    storage = open_storage(url, create=True)
    assert driver_of(storage, "a") is not None
    with pytest.raises(HeldError, match="is held by process"):
        Lease(storage, "a").acquire()
    assert holder.poll() is None
    with storage.engine.connect() as connection:
        assert connection.execute(sa.select(drivers.c.epoch)).scalar() == 1, "the refused claim had no effect"


@pytest.mark.parametrize("renewed", ["1970-01-01 00:00:00", "2999-01-01 00:00:00"])
def test_a_holder_that_cannot_be_seen_keeps_its_lease_while_it_renews_whatever_the_clocks_say(
    url: str, monkeypatch, renewed: str
) -> None:
    monkeypatch.setattr(module, "RENEWAL_SECONDS", 0.3)
    storage = open_storage(url, create=True)
    holding = Lease(storage, "a")
    holding.acquire()
    with storage.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE proxytune_driver SET place = 'elsewhere', renewed = '{renewed}'"))
    with pytest.raises(HeldError, match="is held by process"):
        Lease(open_storage(url, create=True), "a").acquire()
    assert not holding.lost


def test_a_suspended_driver_is_replaced_and_writes_nothing_when_it_wakes(url: str, monkeypatch) -> None:
    monkeypatch.setattr(
        module, "RENEWAL_SECONDS", 10_000.0
    )  # this process, suspended as far as its lease goes
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.5)
    storage = open_storage(url, create=True)
    from optuna.study import StudyDirection

    suspended = Lease(storage, "a")
    suspended.acquire()
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "a")
    trial = storage.create_new_trial(study)
    time.sleep(1.1)  # the database's clock has whole seconds
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


def test_a_holder_notices_that_it_was_replaced(url: str, monkeypatch) -> None:
    monkeypatch.setattr(module, "RENEWAL_SECONDS", 0.2)
    lost: list[str] = []
    holding = Lease(open_storage(url, create=True), "a")
    holding.on_lost = lambda: lost.append("told")
    holding.acquire()
    with open_storage(url, create=True).engine.begin() as connection:
        connection.execute(drivers.update().values(epoch=7))
    deadline = time.monotonic() + 300
    while not lost and time.monotonic() < deadline:
        time.sleep(0.05)
    assert holding.lost
    assert lost == ["told"]


def test_a_connection_that_is_lost_in_a_transaction_fails_with_its_own_error(url: str) -> None:
    """SQLAlchemy also gives a connection up when a signal's exception goes through it."""
    storage = open_storage(url, create=True)
    held = Lease(storage, "a")
    held.acquire()

    def lose() -> None:
        with storage.engine.begin() as connection:
            connection.execute(drivers.insert().values(study="b", epoch=0, held=False, renewed=sa.func.now()))
            connection.invalidate()
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        lose()
    held.check()
    held.release()
