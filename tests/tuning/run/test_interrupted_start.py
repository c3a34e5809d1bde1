"""A driver that gets SIGINT or SIGTERM while it starts ends with 75, at whatever moment, and the next one starts."""

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
from tests.tuning.run.interrupted import __file__ as INTERRUPTED

STUDY = """
name: small
task: {name: listops-mini, train_examples: 256}
training: {steps: 6, warmup_steps: 2, batch_size: 8, learning_rate: 1e-3, eval_every: 3}
search:
  space: {model.num_proxies: {choice: [2, 4, 8]}, model.dropout: {low: 0.0, high: 0.3}}
  trials: 3
  enqueue: [{model.num_proxies: 4, model.dropout: 0.1}]
"""


def ends(folder: Path, number: signal.Signals, stride: int) -> list[tuple[str, int, int, str]]:
    """What interrupted.py found, and that the study which it left behind is whole."""
    (folder / "small.yaml").write_text(STUDY)
    script = [sys.executable, "-P", INTERRUPTED, folder, number.name, str(stride)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(folder / "studies" / "small" / "study.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT study_name FROM studies").fetchall() == [("small",)]
        assert database.execute("SELECT number, state FROM trials").fetchall() == [(0, "WAITING")]
    return [tuple(one) for one in json.loads(done.stdout)]


def check(found: list[tuple[str, int, int, str]]) -> None:
    for study in ("new", "stored"):
        *interrupted, alone = [one for one in found if one[0] == study]
        assert len(interrupted) > 1, f"no start of a {study} study was interrupted"
        assert alone[2] == 0, alone
        for _, moment, code, said in interrupted:
            assert code == 75, f"moment {moment} of a {study} study: {code}: {said}"
            assert not any(word in said for word in ("Traceback", "proxytune: ")), said


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_at_some_moments(tmp_path: Path) -> None:
    check(ends(tmp_path, signal.SIGINT, 160))


@pytest.mark.slow
@pytest.mark.timeout(6000)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_at_many_moments(
    tmp_path: Path, number: signal.Signals, record_property: Callable[[str, object], None]
) -> None:
    found = ends(tmp_path, number, 7)
    check(found)
    record_property("interrupted", len(found) - 2)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("process", ["gcs_server", "raylet", "ray::"])
def test_while_ray_starts(tmp_path: Path, process: str) -> None:
    """Ray has a handler of SIGTERM of its own, by which a driver would end with 1 or 15."""
    (tmp_path / "small.yaml").write_text(STUDY)
    log = tmp_path / "log"
    with log.open("wb") as file:
        driver = psutil.Popen(command("run", "small.yaml"), cwd=tmp_path, stdout=file, stderr=file)
    deadline = time.monotonic() + 600
    while not any(process in word for word in _below(driver)):
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(300) == 75, log.read_text()
    assert "Traceback" not in log.read_text()
    assert not [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(tmp_path)]


def _below(driver: psutil.Process) -> list[str]:
    found = []
    for one in driver.children(recursive=True):
        try:
            found += [" ".join(one.cmdline())]
        except psutil.NoSuchProcess:
            continue
    return found
