"""Interrupts `proxytune run` by a signal at many moments of its start: `interrupted.py FOLDER SIGNAL STRIDE`.

A moment is a return from a database call in the main thread, between the first read of the database and the search: a
signal that arrives during a database call is handled there. FOLDER contains `small.yaml`. A new study and a stored study
are started repeatedly, each time in a fork of this process. Each start gets the signal at a later moment, STRIDE moments
apart; the last start of each study is not interrupted. Prints a list of [study, moment, exit code, output] as JSON.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from proxytune.tuning.cli import main
from proxytune.tuning.commands import study as verbs  # imported before the forks
from proxytune.tuning.run import driver, progress  # noqa: F401

NEVER = sys.maxsize
REACHED_SEARCH = 42
"""Exit code of a driver that reached its search in spite of the signal."""
DATABASE_CALLS = ("execute", "executemany", "fetchall", "fetchone", "commit", "rollback", "close")


class Moments:
    """Counts the moments and sends the signal to this process at one of them; a function for `sys.setprofile`."""

    def __init__(self, number: signal.Signals, moment: int) -> None:
        self._number, self._moment = number, moment
        self.count = 0

    def __call__(self, _frame: FrameType, event: str, argument: Any) -> None:
        if event != "c_return" or argument.__name__ not in DATABASE_CALLS:
            return
        if not type(argument.__self__).__module__.startswith("sqlite3"):
            return
        self.count += 1
        if self.count == self._moment:
            os.kill(os.getpid(), self._number)


class NoShipper:
    """Replaces the process that ships to MLflow, which takes seconds to start."""

    def __init__(self, *_: Any) -> None: ...

    def start(self, *_: Any) -> None: ...

    def close(self, *_: Any) -> None: ...


def start(folder: Path, number: signal.Signals, moment: int) -> tuple[int, int, str]:
    """Start the study and send the signal at the moment. Returns the exit code, the number of moments and the output."""
    log = folder / "log"
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            count = int(pipe.read() or -1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), count, log.read_text()
    code, moments = 1, Moments(number, moment)
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        driver.Shipper = NoShipper  # type: ignore[assignment, misc]
        verbs._early_ray = lambda *_: nullcontext()  # type: ignore[assignment]  # the search is replaced too
        driver.hold_study = _counted(moments, driver.hold_study)  # type: ignore[assignment]
        driver._search = _search(moments, moment)  # type: ignore[assignment]
        sys.argv = ["proxytune", "run", str(folder / "small.yaml"), "--storage", str(folder / "studies")]
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.setprofile(None)
        sys.stdout.flush()
        os.write(writing, str(moments.count).encode())
        os._exit(code)


def _counted(moments: Moments, work: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any, **named: Any) -> Any:
        sys.setprofile(moments)
        return work(*arguments, **named)

    return counted


def _search(moments: Moments, moment: int) -> Callable[..., None]:
    def search(*_: Any) -> None:
        sys.setprofile(None)
        raise SystemExit(0 if moments.count < moment else REACHED_SEARCH)

    return search


def interrupt(folder: Path, number: signal.Signals, stride: int) -> list[tuple[str, int, int, str]]:
    results = []
    for study in ("new", "stored"):
        moment, count = 1, NEVER
        while moment <= count:
            if study == "new":
                shutil.rmtree(folder / "studies", ignore_errors=True)
            code, seen, output = start(folder, number, moment)
            results.append((study, moment, code, output))
            if seen < moment:  # this start had fewer moments and was not interrupted
                break
            moment += stride
    return results


if __name__ == "__main__":
    print(json.dumps(interrupt(Path(sys.argv[1]), signal.Signals[sys.argv[2]], int(sys.argv[3]))))
