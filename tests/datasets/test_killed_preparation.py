"""An interrupted, killed or failed preparation leaves no worker process and no partial file."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from proxytune.datasets import DataError
from proxytune.datasets.parallel import process_map

# Generates millions of ListOps rows in two worker processes, independent of the number of cores.
PROGRAM = """
import os, sys
from pathlib import Path
os.sched_getaffinity = lambda _: {0, 1}
if __name__ == "__main__":
    from proxytune.datasets import prepare
    print("start", flush=True)
    prepare(
        "listops-mini", cache=Path(sys.argv[1]), train_examples=10_000_000,
        progress=lambda *_: print("row", flush=True),
    )
"""


@pytest.fixture
def running(tmp_path):
    """A process that prepares data, its child processes, and its cache folder."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "cache")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "start\n"
    assert process.stdout.readline() == "row\n"
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    yield process, workers, tmp_path / "cache"
    process.kill()
    process.communicate()


def have_exited(processes: list[psutil.Process]) -> bool:
    """Wait for the processes to exit. A zombie, whose new parent never reaps it, counts as exited."""
    _, alive = psutil.wait_procs(processes, timeout=300)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_preparation_leaves_no_process_and_no_file(number, running):
    process, workers, cache = running
    process.send_signal(number)
    process.wait(300)
    assert have_exited(workers)
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_killed_worker_raises_data_error(running):
    process, workers, cache = running
    next(worker for worker in workers if "--multiprocessing-fork" in worker.cmdline()).kill()
    _, errors = process.communicate(timeout=300)
    assert "a process that generates data was killed" in errors
    assert have_exited(workers)
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_closing_the_iterator_kills_busy_workers(monkeypatch):
    """Closing does not wait for items that take an hour."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    results = process_map(time.sleep, [0, 3600, 3600])
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert multiprocessing.active_children() == []


def test_unusable_cache_folder_is_reported(tmp_path):
    from proxytune.datasets import prepare

    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"cache folder .*file cannot be used") as error:
        prepare("listops-mini", cache=tmp_path / "file", train_examples=10, mapper=map)
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "not a folder"
