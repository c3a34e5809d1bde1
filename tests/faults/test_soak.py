"""Thousands of short trials with a fault every few seconds: nothing is lost, nothing is there twice, memory stays flat."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from proxytune.tuning.spec.locations import default_uri

TRIALS, STEPS = 5000, (3, 6, 9)
STUDY = f"""
name: small
task: {{name: listops-mini, train_examples: 256}}
training: {{steps: {STEPS[-1]}, warmup_steps: 0, batch_size: 1, learning_rate: 1e-3, eval_every: {STEPS[0]}}}
resources: {{max_failures: 100}}
search:
  space: {{model.dropout: {{low: 0.0, high: 0.4}}}}
  sampler: {{name: random}}
  stopping: {{name: none}}
  trials: {TRIALS}
"""
HANGING_SECONDS, LOCKED_SECONDS = 3, 2  # how long those faults last
WITHOUT_WORK = f"""
import functools, sys
sys.path.append({str(Path(__file__).parents[2])!r})
import proxytune.tuning.run.driver as driver
from tests.benchmarks.turnaround import NoWorkTrainable
driver.run_study = functools.partial(driver.run_study, trainable=NoWorkTrainable)
"""


def start(study: Any) -> Any:
    """A driver of the study that has ended a trial, or has itself ended."""
    ended = len(study.events("end"))
    driver = study.start(before=WITHOUT_WORK)
    study.wait(lambda: driver.poll() is not None or len(study.events("end")) > ended, seconds=600)
    return driver


def kill_driver(study: Any, driver: Any) -> None:
    os.killpg(driver.pid, signal.SIGKILL)
    assert driver.wait(60) == -signal.SIGKILL


def interrupt_driver(study: Any, driver: Any) -> None:
    driver.send_signal(signal.SIGINT)
    assert driver.wait(240) in (0, 75), study.said()


def terminate_driver(study: Any, driver: Any) -> None:
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(240) in (0, 75), study.said()


def children(driver: Any, word: str) -> list[psutil.Process]:
    """Processes below the driver with the word in their command line."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(driver.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if word in " ".join(process.cmdline()):
                    found.append(process)
    return found


def kill_worker(study: Any, driver: Any) -> None:
    for process in children(driver, "ray::NoWorkTrainable")[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def kill_shipper(study: Any, driver: Any) -> None:
    for process in children(driver, "tracking.shipping"):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def hang_shipper(study: Any, driver: Any) -> None:
    hanging = children(driver, "tracking.shipping")
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in hanging:
            process.suspend()
        time.sleep(HANGING_SECONDS)
        for process in hanging:
            process.resume()


def lock(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(LOCKED_SECONDS)
        connection.execute("ROLLBACK")


def lock_study(study: Any, driver: Any) -> None:
    lock(study.storage / "small" / "study.db")


def lock_mlflow(study: Any, driver: Any) -> None:
    lock(study.storage / "mlflow.db")


FAULTS = {  # how often, of 20
    kill_driver: 1,
    interrupt_driver: 1,
    terminate_driver: 1,
    kill_worker: 7,
    kill_shipper: 3,
    hang_shipper: 2,
    lock_study: 3,
    lock_mlflow: 2,
}


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_thousands_of_trials_survive_a_fault_every_few_seconds(
    make_study: Callable[..., Any], mlflow_points: Callable[..., Any], record: Callable[..., None]
) -> None:
    study = make_study(text=STUDY)
    dice = random.Random(0)
    injected: Counter[str] = Counter()
    memory: list[tuple[int, float]] = []  # (ended trials, MiB of the driver)
    deadline = time.monotonic() + 5000
    driver = start(study)
    while True:
        with contextlib.suppress(psutil.Error):
            mib = psutil.Process(driver.pid).memory_full_info().pss / 2**20
            memory.append((len(study.events("end")), mib))
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(dice.uniform(2, 6))
        if driver.poll() is not None:
            assert driver.returncode in (0, 75, -signal.SIGKILL), study.said()
            if driver.returncode == 0:
                break
            driver = start(study)
            continue
        assert time.monotonic() < deadline, study.said()
        (fault,) = dice.choices(list(FAULTS), FAULTS.values())
        fault(study, driver)
        injected[fault.__name__] += 1
    assert injected.keys() == {fault.__name__ for fault in FAULTS}

    expected = {(trial, step) for trial in range(TRIALS) for step in STEPS}
    reports = Counter((event.trial, event.step) for event in study.events("report"))
    ends = Counter(event.trial for event in study.events("end") if event.outcome == "complete")
    held, twice = mlflow_points(default_uri(study.storage))
    told = {(int(key.rpartition("/")[2]), step) for key, metric, step in held if metric == "val_accuracy"}
    lost = len(expected - reports.keys()) + len(set(range(TRIALS)) - ends.keys()) + len(expected - told)
    doubled = sum(reports.values()) - len(reports) + sum(ends.values()) - len(ends) + twice
    assert (lost, doubled) == (0, 0)
    assert "Traceback" not in study.log.read_text(errors="replace")

    early = max(mib for ended, mib in memory if ended < TRIALS / 4)
    late = max(mib for ended, mib in memory if ended > 3 * TRIALS / 4)
    print(f"{dict(injected)}; driver at most {early:.0f} MiB in the first quarter, {late:.0f} in the last")
    assert late < 1.5 * early, memory
    record(
        f"a fault every few seconds over {TRIALS:,} short trials "
        "(driver killed, interrupted and terminated; workers killed; shipper killed and hung; databases locked)",
        injected=sum(injected.values()),
        lost=lost,
        doubled=doubled,
        seconds=None,
        seen=f"the same command goes on; driver {early:.0f} MiB at most in the first quarter, {late:.0f} in the last",
    )
