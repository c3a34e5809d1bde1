"""The kinds of faults of a soak test. Each is injected while a driver runs; afterwards a driver runs, or none.

The exit codes and error messages of drivers are asserted immediately after the injection.
"""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import httpx
import psutil

from tests.faults.soak import EXIT_CODES, LEASE_SECONDS, Soak
from tests.faults.soak_processes import children, shippers

STOPPED_SECONDS, LOCKED_SECONDS = 2.0, 2.0


def driver_killed(soak: Soak, chance: random.Random) -> None:
    assert soak.driver is not None
    os.kill(soak.driver, signal.SIGKILL)
    assert soak.code_of(soak.driver, 60) == -signal.SIGKILL


def driver_terminated(soak: Soak, chance: random.Random) -> None:
    soak.end(signal.SIGTERM)


def driver_interrupted(soak: Soak, chance: random.Random) -> None:
    soak.end(signal.SIGINT)


def driver_suspended(soak: Soak, chance: random.Random) -> None:
    """Suspended longer than its lease, while another driver takes over; it must then exit without writing.

    Not during a write, which would keep the sqlite database locked.
    """
    first = soak.driver
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    while _is_locked(soak.study / "study.db"):
        os.kill(first, signal.SIGCONT)
        time.sleep(0.05)
        os.kill(first, signal.SIGSTOP)
    # A lease that is not older cannot be acquired; the database's clock has a resolution of one second.
    time.sleep(LEASE_SECONDS + 1)
    soak.driver = soak.start()
    soak.wait_for_progress(soak.driver)
    time.sleep(chance.uniform(0, 1))
    os.kill(first, signal.SIGCONT)
    assert soak.code_of(first, 120) == 3, soak.log_tail()
    soak.wait_for_progress(soak.driver)


def _is_locked(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


def second_driver(soak: Soak, chance: random.Random) -> None:
    soak.assert_rejected(3, "is held by process")
    assert soak.driver is not None
    soak.wait_for_progress(soak.driver)


def shipper_killed(soak: Soak, chance: random.Random) -> None:
    for process in _wait_for(soak, "tracking.shipping"):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def shipper_suspended(soak: Soak, chance: random.Random) -> None:
    for process in _wait_for(soak, "tracking.shipping"):
        with suppress(psutil.NoSuchProcess):
            process.suspend()
            time.sleep(STOPPED_SECONDS)
            process.resume()


def _wait_for(soak: Soak, word: str) -> list[psutil.Process]:
    """The driver's processes with the word in their command line, once there are any."""
    assert soak.driver is not None
    deadline = time.monotonic() + 300
    while not (found := children(soak.driver, word)):
        assert time.monotonic() < deadline, f"no process {word}"
        time.sleep(0.02)
    return found


def mlflow_killed(soak: Soak, chance: random.Random) -> None:
    soak.mlflow.stop()
    time.sleep(chance.uniform(0, 2))
    soak.mlflow.launch()


def database_locked(soak: Soak, chance: random.Random) -> None:
    _lock(soak.study / "study.db")


def mlflow_database_locked(soak: Soak, chance: random.Random) -> None:
    _lock(soak.mlflow_db)


def _lock(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(LOCKED_SECONDS)
        connection.execute("ROLLBACK")


def disk_full(soak: Soak, chance: random.Random) -> None:
    """Until the driver exits. The file system contains only the study."""
    filler = soak.disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(512))
    assert soak.driver is not None
    code = soak.code_of(soak.driver, 120)
    filler.unlink()
    assert code == 5, f"{code}: {soak.log_tail()}"


def disk_read_only(soak: Soak, chance: random.Random) -> None:
    soak.kill()
    soak.kill_service()  # it keeps the database open
    _remount(soak, "ro")
    try:
        soak.assert_rejected(5, "ead-only")
    finally:
        _remount(soak, "rw")


def _remount(soak: Soak, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", soak.disk], check=True)


def journal_cut(soak: Soak, chance: random.Random) -> None:
    """A power failure: the journal keeps what was synced, and a part of the rest. Shippers sync, so they are suspended."""
    assert soak.driver is not None
    for process in shippers(soak.driver):
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    synced = soak.journal_size()
    time.sleep(chance.uniform(0.1, 1))
    soak.kill()
    os.truncate(soak.journal, chance.randint(synced, soak.journal_size()))


def acknowledgement_cut(soak: Soak, chance: random.Random) -> None:
    """A power failure: the acknowledgement is empty, truncated, missing, or an older version."""
    earlier = {path.name: path.read_bytes() for path in soak.study.glob("outbox/acknowledged-*.json")}
    time.sleep(chance.uniform(0.1, 1))
    soak.kill()
    damage = chance.choice(["empty", "truncated", "missing", "older"])
    for path in soak.study.glob("outbox/acknowledged-*.json"):
        if damage == "missing":
            path.unlink()
        elif damage == "older" and path.name in earlier:
            path.write_bytes(earlier[path.name])
        else:
            os.truncate(path, 0 if damage == "empty" else chance.randrange(path.stat().st_size))


def checkpoint_damaged(soak: Soak, chance: random.Random) -> None:
    soak.kill()
    for trial in _unfinished(soak):
        states = sorted(trial.glob("step-*/state-*.pt"))
        if states:
            content = bytearray(states[-1].read_bytes())
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            length = chance.choice([len(content), chance.randrange(len(content))])
            states[-1].write_bytes(content[:length])


def checkpoint_replaced(soak: Soak, chance: random.Random) -> bool | None:
    """Checkpoints replaced by those of another trial are rejected, and then restored. False: no trial has checkpoints."""
    soak.kill()
    unfinished = [trial for trial in _unfinished(soak) if _has_checkpoints(trial)]
    others = [
        trial
        for trial in (soak.study / "trials").iterdir()
        if trial not in unfinished and _has_checkpoints(trial)
    ]
    if not unfinished or not others:
        return False
    replaced, other = chance.choice(unfinished), chance.choice(others)
    backup = soak.disk / "backup"  # on the same file system
    replaced.rename(backup)
    shutil.copytree(other, replaced)
    soak.assert_rejected(5, "belongs to another trial")
    shutil.rmtree(replaced)
    backup.rename(replaced)
    return None


def _has_checkpoints(trial: Path) -> bool:
    return any(trial.glob("step-*/manifest.json"))


def _unfinished(soak: Soak) -> list[Path]:
    """Folders of the trials that the next driver resumes; those whose end is stored are not resumed."""
    folders = [
        soak.study / "trials" / str(number)
        for number, state in _trials(soak)
        if state in ("RUNNING", "WAITING")
    ]
    return [folder for folder in folders if folder.exists()]


def _trials(soak: Soak) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(soak.study / "study.db")) as database:
        ended = (
            "EXISTS (SELECT 1 FROM trial_user_attributes a WHERE a.trial_id = t.trial_id AND a.key = 'end')"
        )
        query = f"SELECT number, CASE WHEN {ended} THEN 'ENDED' ELSE state END FROM trials t ORDER BY number"
        return database.execute(query).fetchall()


def database_away(soak: Soak, chance: random.Random) -> None:
    soak.kill()
    backup = soak.folder / "away.db"
    _copy_database(soak.study / "study.db", backup)
    for name in ("study.db", "study.db-wal", "study.db-shm"):
        (soak.study / name).unlink(missing_ok=True)
    soak.assert_rejected(2, "restore the matching database")
    _copy_database(backup, soak.study / "study.db")
    backup.unlink()


def database_restored(soak: Soak, chance: random.Random) -> None:
    """A backup from some seconds ago: if it lacks trials that have checkpoints, it is rejected and the newest restored."""
    database, backup, newest = (soak.study / "study.db", soak.folder / "backup.db", soak.folder / "newest.db")
    _copy_database(database, backup)
    time.sleep(chance.uniform(0.1, 1))
    soak.kill()
    _copy_database(database, newest)
    _copy_database(backup, database)
    known = {str(number) for number, _ in _trials(soak)}
    if {path.name for path in (soak.study / "trials").iterdir()} - known:
        soak.assert_rejected(2, "which is not in the database")
        _copy_database(newest, database)
    backup.unlink()
    newest.unlink()


def _copy_database(source: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(source, timeout=60)) as old,
        closing(sqlite3.connect(target, timeout=60)) as new,
    ):
        old.backup(new)


def steering_requests(soak: Soak, chance: random.Random) -> None:
    """Pauses, extensions and stops requested by another process."""

    def steer() -> None:
        from proxytune.tuning.store import steering
        from proxytune.tuning.store.study import open_study

        study = open_study("small", soak.study.parent)
        for _ in range(3):
            steering.pause(study, on=True)
            steering.extend(study, 1_000_000 + chance.randrange(1000))
            time.sleep(chance.uniform(0, 1.5))
            steering.pause(study, on=False)
        if stops:
            steering.request_stop(study, now=chance.random() < 0.5)

    stops = chance.random() < 0.3
    assert soak.code_of(soak.fork(steer), 120) == 0, soak.log_tail()
    if stops:
        assert soak.driver is not None
        assert soak.code_of(soak.driver, 120) in EXIT_CODES, soak.log_tail()


def service_requests(soak: Soak, chance: random.Random) -> None:
    """Reads, pauses and invalid requests; in one of three cases the service is killed afterwards."""
    url = f"{soak.service()}/v1/studies/small"
    with httpx.Client(timeout=60) as client:
        assert client.get(url).status_code == 200
        assert client.post(f"{url}/pause").status_code == 202
        assert client.post(f"{url}/extend", json={"trials": "many"}).status_code == 422
        assert client.get(f"{url}-not-there").status_code == 404
        time.sleep(chance.uniform(0, 1.5))
        assert client.post(f"{url}/resume").status_code == 202
    if chance.random() < 1 / 3:
        soak.kill_service()


def worker_killed(soak: Soak, chance: random.Random) -> None:
    """With Ray; another worker resumes the trial."""
    for process in _wait_for(soak, "ray::SumTrainable")[:1]:
        process.kill()
    assert soak.driver is not None
    soak.wait_for_progress(soak.driver)


def raylet_killed(soak: Soak, chance: random.Random) -> None:
    for process in _wait_for(soak, "/raylet/raylet"):
        process.kill()
    assert soak.driver is not None
    code = soak.code_of(soak.driver, 180)
    assert code == 75, f"{code}: {soak.log_tail()}"


FAULTS: dict[str, Callable[[Soak, random.Random], bool | None]] = {
    fault.__name__: fault
    for fault in (
        driver_killed,
        driver_terminated,
        driver_interrupted,
        driver_suspended,
        second_driver,
        shipper_killed,
        shipper_suspended,
        mlflow_killed,
        database_locked,
        mlflow_database_locked,
        disk_full,
        disk_read_only,
        journal_cut,
        acknowledgement_cut,
        checkpoint_damaged,
        checkpoint_replaced,
        database_away,
        database_restored,
        steering_requests,
        service_requests,
        worker_killed,
        raylet_killed,
    )
}
ON_RAY_KINDS = ("worker_killed", "raylet_killed")
