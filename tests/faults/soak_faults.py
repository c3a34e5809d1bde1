"""The kinds of faults of a soak: each is injected while a driver works, and leaves one that works or none.

What a driver must answer is asserted here at once: its exit code, and the words of a refusal.
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

from tests.faults.soak import ENDINGS, LEASE_SECONDS, Soak
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
    """Longer than its lease, while another takes over; when it wakes it must leave without a word in the study.

    Not in the middle of a write: that keeps a sqlite database locked for everybody.
    """
    first = soak.driver
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    while _is_locked(soak.study / "study.db"):
        os.kill(first, signal.SIGCONT)
        time.sleep(0.05)
        os.kill(first, signal.SIGSTOP)
    # A claim on a fresh lease is refused; the database's clock has whole seconds.
    time.sleep(LEASE_SECONDS + 1)
    soak.driver = soak.start()
    soak.wait_for_progress(soak.driver)
    time.sleep(chance.uniform(0, 1))
    os.kill(first, signal.SIGCONT)
    assert soak.code_of(first, 120) == 3, soak.said()
    soak.wait_for_progress(soak.driver)


def _is_locked(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


def second_driver(soak: Soak, chance: random.Random) -> None:
    soak.refused(3, "is held by process")
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
    """Until the driver ends; the file system is the study's alone."""
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
    assert code == 5, f"{code}: {soak.said()}"


def disk_read_only(soak: Soak, chance: random.Random) -> None:
    soak.kill()
    soak.kill_service()  # it has the database open
    _remount(soak, "ro")
    try:
        soak.refused(5, "ead-only")
    finally:
        _remount(soak, "rw")


def _remount(soak: Soak, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", soak.disk], check=True)


def journal_cut(soak: Soak, chance: random.Random) -> None:
    """A power cut: the journal keeps what was synced, and some of what was not. Shippers sync, so they are held."""
    assert soak.driver is not None
    for process in shippers(soak.driver):
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    synced = soak.journal_size()
    time.sleep(chance.uniform(0.1, 1))
    soak.kill()
    os.truncate(soak.journal, chance.randint(synced, soak.journal_size()))


def acknowledgement_cut(soak: Soak, chance: random.Random) -> None:
    """A power cut: the acknowledgement is empty, torn, gone, or an older one."""
    kept = {path.name: path.read_bytes() for path in soak.study.glob("outbox/acknowledged-*.json")}
    time.sleep(chance.uniform(0.1, 1))
    soak.kill()
    how = chance.choice(["empty", "torn", "gone", "older"])
    for path in soak.study.glob("outbox/acknowledged-*.json"):
        if how == "gone":
            path.unlink()
        elif how == "older" and path.name in kept:
            path.write_bytes(kept[path.name])
        else:
            os.truncate(path, 0 if how == "empty" else chance.randrange(path.stat().st_size))


def checkpoint_damaged(soak: Soak, chance: random.Random) -> None:
    soak.kill()
    for trial in _unfinished(soak):
        states = sorted(trial.glob("step-*/state-*.pt"))
        if states:
            content = bytearray(states[-1].read_bytes())
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            keep = chance.choice([len(content), chance.randrange(len(content))])
            states[-1].write_bytes(content[:keep])


def checkpoint_replaced(soak: Soak, chance: random.Random) -> bool | None:
    """By that of another trial: refused, whatever it holds; then put back. False: no trial had one to replace."""
    soak.kill()
    victims = [trial for trial in _unfinished(soak) if list(trial.glob("step-*/manifest.json"))]
    others = [path for path in (soak.study / "trials").iterdir() if path not in victims and list(path.glob("step-*/manifest.json"))]  # fmt: skip
    if not victims or not others:
        return False
    victim, other = chance.choice(victims), chance.choice(others)
    away = soak.disk / "away"  # on one file system
    victim.rename(away)
    shutil.copytree(other, victim)
    soak.refused(5, "belongs to another trial")
    shutil.rmtree(victim)
    away.rename(victim)
    return None


def _unfinished(soak: Soak) -> list[Path]:
    """Folders of the trials that are to go on: not those whose end is stored, which the next driver only tells."""
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
    away = soak.folder / "away.db"
    _copy_database(soak.study / "study.db", away)
    for name in ("study.db", "study.db-wal", "study.db-shm"):
        (soak.study / name).unlink(missing_ok=True)
    soak.refused(2, "restore the matching database")
    _copy_database(away, soak.study / "study.db")
    away.unlink()


def database_restored(soak: Soak, chance: random.Random) -> None:
    """A backup that is some seconds old: refused if there are checkpoints of trials that it lacks, and then put back."""
    database, backup, newest = (soak.study / "study.db", soak.folder / "backup.db", soak.folder / "newest.db")
    _copy_database(database, backup)
    time.sleep(chance.uniform(0.1, 1))
    soak.kill()
    _copy_database(database, newest)
    _copy_database(backup, database)
    known = {str(number) for number, _ in _trials(soak)}
    if {path.name for path in (soak.study / "trials").iterdir()} - known:
        soak.refused(2, "which is not in the database")
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
    """Pauses, extensions and stops from other processes; the last one decides."""

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
    assert soak.code_of(soak.fork(steer), 120) == 0, soak.said()
    if stops:
        assert soak.driver is not None
        assert soak.code_of(soak.driver, 120) in ENDINGS, soak.said()


def service_requests(soak: Soak, chance: random.Random) -> None:
    """Reads, pauses and requests that are no good; one in three times the service is killed in the middle."""
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
    """On Ray: another worker resumes the trial."""
    for process in _wait_for(soak, "ray::SumTrainable")[:1]:
        process.kill()
    assert soak.driver is not None
    soak.wait_for_progress(soak.driver)


def raylet_killed(soak: Soak, chance: random.Random) -> None:
    for process in _wait_for(soak, "/raylet/raylet"):
        process.kill()
    assert soak.driver is not None
    code = soak.code_of(soak.driver, 180)
    assert code == 75, f"{code}: {soak.said()}"


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
