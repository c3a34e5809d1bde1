"""Concurrent drivers, a clock that is set back, and a memory limit."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_of_concurrent_drivers_one_runs_and_the_others_name_it(
    study: Any, record: Callable[..., None]
) -> None:
    drivers = [study.start() for _ in range(3)]
    codes = sorted(driver.wait(240) for driver in drivers)
    assert codes == [0, 3, 3], study.log_tail()
    counted = study.lost_and_duplicated()
    assert counted == {"lost": 0, "duplicated": 0}
    assert study.log.read_text().count("is held by process") == 2
    record(
        "three drivers started at once",
        injected=2,
        **counted,
        seconds=None,
        result="one runs; the others exit with 3 and name its process",
    )


@pytest.mark.slow
def test_clock_set_back_loses_and_duplicates_nothing(
    study: Any, shifted_clock: str, tmp_path: Path, record: Callable[..., None]
) -> None:
    """By two days during a run, and by two more days between two runs."""
    clock = tmp_path / "clock"
    clock.write_text("4")
    driver = study.start(before=shifted_clock, CLOCK=str(clock))
    study.wait(lambda: len(study.events("report")) >= 2, driver, 240)
    clock.write_text("2")
    reports = len(study.events("report"))
    study.wait(lambda: len(study.events("report")) > reports, driver, 240)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    seconds = study.finish()
    counted = study.lost_and_duplicated()
    assert counted == {"lost": 0, "duplicated": 0}
    days = {event.time_ms // 86_400_000 for event in study.events("report")}
    assert max(days) - min(days) >= 3, "the clock was not set back"
    record(
        "the driver's clock set back two days, during a run and between two runs",
        injected=2,
        **counted,
        seconds=seconds,
        result="the study continues; no order depends on the clock",
    )


LIMITED = """
import json, resource
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.trial.trial_run import TrialRun
values = {"name": "t", "task": {"name": "listops-mini", "train_examples": 256},
          "model": {"num_layers": 1, "embedding_dim": 16, "feedforward_dim": 16, "num_proxies": 4},
          "training": {"steps": 4, "warmup_steps": 2, "batch_size": 8, "eval_every": 4, "learning_rate": 1e-3}}
small = TrialSpec.model_validate(values)
TrialRun(small, None).advance()  # allocates the threads and buffers of a training
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), resource.RLIM_INFINITY))
values["model"] |= {"attention": "softmax", "embedding_dim": 512, "feedforward_dim": 4096, "num_heads": 8}
values["training"] |= {"batch_size": 256}
big = TrialSpec.model_validate(values)
try:
    first = TrialRun(big, None).advance()
    outcome, reason = first.outcome, first.reason
except Exception as error:
    outcome, reason = type(error).__name__, str(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps([outcome, reason, TrialRun(small, None).advance().outcome]))
"""


@pytest.mark.slow
@pytest.mark.e2e
def test_memory_limit_ends_only_the_trial_that_exceeds_it(record: Callable[..., None]) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", LIMITED], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    outcome, reason, after = json.loads(done.stdout.splitlines()[-1])
    assert outcome == "out_of_memory", (outcome, reason)
    assert reason
    assert after == "complete"
    record(
        "memory limit exceeded (RLIMIT_AS)",
        injected=1,
        lost=0,
        duplicated=0,
        seconds=None,
        result="outcome out_of_memory; the next trial in the same process completes",
    )
