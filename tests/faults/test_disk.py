"""Studies on disks that are full, read-only or damaged."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxytune.tuning.errors import StorageError
from proxytune.tuning.store.study import open_study

STEPS = 200  # of the study of conftest.py
RUN = "exec " + "'{python}' -P -c 'from proxytune.tuning.cli import main; main()' run small.yaml"
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")


def in_namespace(script: str, folder: Path, data_cache: Path) -> "subprocess.CompletedProcess[str]":
    """Run a shell script in its own mount and PID namespaces."""
    return subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-euc", script],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=800,
        env=os.environ | {"PROXYTUNE": RUN.format(python=sys.executable), "PROXYTUNE_CACHE": str(data_cache)},
        check=False,
    )


FULL = """
mkdir -p studies/small/{part} copy
mount -t tmpfs -o size={size} tmpfs studies/small/{part}
code=0; bash -c "$PROXYTUNE --json" >out 2>err || code=$?
echo "first: $code"
mount -o remount,size=200m studies/small/{part}
began=$(date +%s.%N)
code=0; bash -c "$PROXYTUNE --json" >out 2>>err || code=$?
echo "second: $code"
echo "seconds: $(echo "$(date +%s.%N) - $began" | bc -l 2>/dev/null || python3 -c "import time;print(time.time()-$began)")"
cp -r studies/small/outbox/. copy
"""


@pytest.mark.slow
@needs_root
@pytest.mark.parametrize(("part", "size"), [("trials", "200k"), ("outbox", "12k")])
def test_full_disk_exits_with_one_line_and_a_rerun_loses_nothing(
    study: Any, data_cache: Path, record: Callable[..., None], part: str, size: str
) -> None:
    done = in_namespace(FULL.format(part=part, size=size), study.folder, data_cache)
    assert done.returncode == 0, done.stderr
    printed = dict(line.split(": ") for line in done.stdout.splitlines())
    error = (study.folder / "err").read_text()
    assert "Traceback" not in error
    assert printed["first"] == str(StorageError.exit_code), error
    (line,) = [line for line in error.splitlines() if line.startswith("proxytune: ")]
    assert "No space left on device" in line
    assert str(study.storage / "small" / part) in line
    assert printed["second"] == "0", error
    study.outbox = study.folder / "copy"
    counted = study.lost_and_duplicated()
    assert counted == {"lost": 0, "duplicated": 0}
    record(
        f"disk full under {'checkpoints' if part == 'trials' else 'the outbox'} (tmpfs of {size})",
        injected=1,
        **counted,
        seconds=float(printed["seconds"]),
        result=f"exit code {printed['first']} and one line of error; the same command resumes the study",
    )


READ_ONLY = """
mkdir -p studies
mount --bind studies studies
mount -o remount,bind,ro studies
code=0; bash -c "$PROXYTUNE" >out 2>err || code=$?
echo "$code"
"""


@pytest.mark.slow
@pytest.mark.e2e
@needs_root
def test_read_only_storage_is_reported_before_any_trial_starts(
    study: Any, data_cache: Path, record: Callable[..., None]
) -> None:
    done = in_namespace(READ_ONLY, study.folder, data_cache)
    error = (study.folder / "err").read_text()
    assert done.stdout.strip() == str(StorageError.exit_code), error + done.stderr
    lines = [line for line in error.splitlines() if line.startswith("proxytune: ")]
    assert len(lines) == 1
    assert str(study.storage / "small") in lines[0]
    assert "Read-only file system" in lines[0]
    assert f"user {os.getuid()}" in lines[0]
    assert list(study.storage.iterdir()) == []
    record(
        "storage read-only",
        injected=1,
        lost=0,
        duplicated=0,
        seconds=None,
        result="exit code 5 before any trial; the error names the path and the user",
    )


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


@pytest.mark.slow
def test_damaged_checkpoints_are_replaced_by_the_previous_ones(
    study: Any, record: Callable[..., None]
) -> None:
    driver = study.start()
    trials = study.storage / "small" / "trials"

    def two_checkpoints() -> list[Path]:
        """Trials with two checkpoints that are not complete: the last checkpoint of a complete trial is not read."""
        return sorted(
            folder
            for folder in trials.glob("*")
            if len(list(folder.glob("step-*"))) >= 2 and not (folder / f"step-{STEPS:010d}").exists()
        )

    study.wait(two_checkpoints, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    damaged = []
    for folder, damage in zip(two_checkpoints(), (truncate, flip), strict=False):
        (newest,) = sorted(folder.glob("step-*"))[-1:]
        damage(next(newest.glob("state-*.pt")))
        damaged.append(newest)
    assert damaged
    seconds = study.finish()
    counted = study.lost_and_duplicated()
    assert counted == {"lost": 0, "duplicated": 0}
    opened = open_study("small", study.storage)
    for folder in trials.glob("*"):
        (trial,) = [trial for trial in opened.trials() if str(trial.number) == folder.name]
        assert opened.checkpoints(trial).newest()[1] == []
    record(
        "newest checkpoint truncated, or one bit of it flipped",
        injected=len(damaged),
        **counted,
        seconds=seconds,
        result="resumed from the previous checkpoint",
    )
