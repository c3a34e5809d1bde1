"""However preparing ends, no worker process and no half-written file stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from proxytune.datasets import DataError
from proxytune.datasets.parallel import process_map

# Thousands of Pathfinder images in two worker processes, whatever the number of cores.
PROGRAM = """
import os, sys
from pathlib import Path
os.sched_getaffinity = lambda _: {0, 1}
from proxytune.datasets import prepare
if __name__ == "__main__":
    print("start", flush=True)
    prepare("pathfinder", cache=Path(sys.argv[1]), progress=lambda *_: print("row", flush=True))
"""


@pytest.fixture
def running(tmp_path):
    """A process that prepares, its worker processes at work; and its cache."""
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


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=300)
    return all(one.status() == psutil.STATUS_ZOMBIE for one in alive)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_preparation_leaves_no_process_and_no_file(number, running):
    process, workers, cache = running
    process.send_signal(number)
    process.wait(300)
    assert gone(workers)
    left = [path.name for path in cache.iterdir() if path.suffix != ".lock"]
    assert left == []


def test_a_worker_that_is_killed_is_an_error_not_a_wait(running):
    process, workers, cache = running
    (worker,) = [one for one in workers if "--multiprocessing-fork" in one.cmdline()][:1]
    worker.kill()
    _, errors = process.communicate(timeout=300)
    assert "a process that generates data was killed" in errors
    assert gone(workers)
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_leaving_the_loop_ends_the_workers(monkeypatch):
    """Items of ten minutes are not waited for."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    results = process_map(time.sleep, [0, 600, 600])
    next(results)
    results.close()


def test_an_unwritable_cache_is_named(tmp_path):
    from proxytune.datasets import prepare

    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match=r"cache folder .*file cannot be used") as error:
        prepare("listops-mini", cache=tmp_path / "file", train_examples=10, mapper=map)
    assert "\n" not in str(error.value)
    assert Path(tmp_path / "file").read_text() == "no folder"
