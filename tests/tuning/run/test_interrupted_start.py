"""A driver that gets SIGINT or SIGTERM at any moment of its start exits with 75, and the next start succeeds."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.commandline import command
from tests.tuning.run.interrupted import __file__ as SCRIPT

STUDY = """
name: small
task: {name: listops-mini, train_examples: 256}
training: {steps: 6, warmup_steps: 2, batch_size: 8, learning_rate: 1e-3, eval_every: 3}
search:
  space: {model.num_proxies: {choice: [2, 4, 8]}, model.dropout: {low: 0.0, high: 0.3}}
  trials: 3
  enqueue: [{model.num_proxies: 4, model.dropout: 0.1}]
"""


def interrupt_starts(folder: Path, number: signal.Signals, stride: int) -> list[tuple[str, int, int, str]]:
    """Run interrupted.py, check the integrity of the study it leaves, and return what it printed."""
    (folder / "small.yaml").write_text(STUDY)
    script = [sys.executable, "-P", SCRIPT, folder, number.name, str(stride)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(folder / "studies" / "small" / "study.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT study_name FROM studies").fetchall() == [("small",)]
        assert database.execute("SELECT number, state FROM trials").fetchall() == [(0, "WAITING")]
    return [tuple(start) for start in json.loads(done.stdout)]


def check_exit_codes(starts: list[tuple[str, int, int, str]]) -> None:
    for study in ("new", "stored"):
        *interrupted, last = [start for start in starts if start[0] == study]
        assert len(interrupted) > 1, f"no start of a {study} study was interrupted"
        assert last[2] == 0, last
        for _, moment, code, output in interrupted:
            assert code == 75, f"moment {moment} of a {study} study: {code}: {output}"
            assert not any(word in output for word in ("Traceback", "proxytune: ")), output


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_start_interrupted_at_some_moments_exits_with_75(tmp_path: Path) -> None:
    check_exit_codes(interrupt_starts(tmp_path, signal.SIGINT, 160))


@pytest.mark.slow
@pytest.mark.timeout(6000)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_start_interrupted_at_many_moments_exits_with_75(
    tmp_path: Path, number: signal.Signals, record_property: Callable[[str, object], None]
) -> None:
    starts = interrupt_starts(tmp_path, number, 7)
    check_exit_codes(starts)
    record_property("interrupted", len(starts) - 2)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("process", ["gcs_server", "raylet", "ray::"])
def test_sigterm_while_ray_starts_exits_with_75(tmp_path: Path, process: str) -> None:
    """Ray installs its own handler of SIGTERM, with which a driver would exit with 1 or 15."""
    (tmp_path / "small.yaml").write_text(STUDY)
    log = tmp_path / "log"
    with log.open("wb") as file:
        driver = psutil.Popen(command("run", "small.yaml"), cwd=tmp_path, stdout=file, stderr=file)
    deadline = time.monotonic() + 600
    while not any(process in line for line in _descendants(driver)):
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(300) == 75, log.read_text()
    assert "Traceback" not in log.read_text()
    deadline = time.monotonic() + 60  # the resource tracker of multiprocessing ends shortly after its driver
    while left := [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(tmp_path)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _descendants(driver: psutil.Process) -> list[str]:
    """The command lines of the processes that the driver has started."""
    lines = []
    for process in driver.children(recursive=True):
        try:
            lines.append(" ".join(process.cmdline()))
        except psutil.NoSuchProcess:
            continue
    return lines
