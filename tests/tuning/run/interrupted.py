"""`proxytune run` that gets a signal at a given moment of its start: `interrupted.py FOLDER SIGNAL STRIDE`.

A moment is a return from the database in the main thread, between the start's first look at the database and its
search: a signal that comes while the driver waits for the database takes effect there. FOLDER holds `small.yaml`. A new
study and a stored one are started so often that each STRIDE-th moment of both gets the signal, each start in a fork of
this process; then one start is left alone. Prints a list of [study, moment, exit code, output] as JSON.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from proxytune.tuning.cli import main
from proxytune.tuning.commands import study as verbs  # noqa: F401 - here once, so that forks start at once
from proxytune.tuning.run import driver, progress  # noqa: F401

NEVER = sys.maxsize
WENT_ON = 42
"""The exit code of a driver that reached its search although it had got the signal."""
FROM_THE_DATABASE = ("execute", "executemany", "fetchall", "fetchone", "commit", "rollback", "close")


class Moments:
    """Counts the moments, and sends this process the signal at one of them; a function for `sys.setprofile`."""

    def __init__(self, number: signal.Signals, moment: int) -> None:
        self._number, self._moment = number, moment
        self.count = 0

    def __call__(self, _frame: FrameType, event: str, argument: Any) -> None:
        if event != "c_return" or argument.__name__ not in FROM_THE_DATABASE:
            return
        if not type(argument.__self__).__module__.startswith("sqlite3"):
            return
        self.count += 1
        if self.count == self._moment:
            os.kill(os.getpid(), self._number)


class NoShipper:
    """In place of the process that ships to MLflow, which takes seconds."""

    def __init__(self, *_: Any) -> None: ...

    def start(self, *_: Any) -> None: ...

    def close(self, *_: Any) -> None: ...


def start(folder: Path, number: signal.Signals, moment: int) -> tuple[int, int, str]:
    """A start that gets the signal at the moment: its exit code, how many moments it had, and what it printed."""
    said = folder / "said"
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        with os.fdopen(reading) as told:
            count = int(told.read() or -1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), count, said.read_text()
    code, moments = 1, Moments(number, moment)
    try:
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        driver.Shipper = NoShipper  # type: ignore[assignment, misc]
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
        raise SystemExit(0 if moments.count < moment else WENT_ON)

    return search


def interrupt(folder: Path, number: signal.Signals, stride: int) -> list[tuple[str, int, int, str]]:
    results = []
    for study in ("new", "stored"):
        moment, count = 1, NEVER
        while moment <= count:
            if study == "new":
                shutil.rmtree(folder / "studies", ignore_errors=True)
            code, seen, said = start(folder, number, moment)
            results.append((study, moment, code, said))
            if seen < moment:  # the start has fewer moments, and was left alone
                break
            moment += stride
    return results


if __name__ == "__main__":
    print(json.dumps(interrupt(Path(sys.argv[1]), signal.Signals[sys.argv[2]], int(sys.argv[3]))))
