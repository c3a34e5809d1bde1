"""`proxytune` as a user runs it, in a process of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Called:
    """What a command that ran in the test's own process printed, and its exit code."""

    code: int
    stdout: str
    stderr: str


def command(*arguments: object) -> list[str]:
    """The words that run `proxytune` with these arguments."""
    return [sys.executable, "-P", "-m", "proxytune.tuning", *map(str, arguments)]


def proxytune(
    *arguments: object, cwd: Path, timeout: float = 600, given: str | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run it to its end, with `given` as its input; an unexpected error fails the test."""
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=os.environ | environment,
        input=given,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def proxytune_on_ray(
    *arguments: object, cwd: Path, given: str | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run it as often as it says that Ray did not start: Ray gives its processes 30 s, which a busy machine exceeds."""
    for _ in range(5):
        done = proxytune(*arguments, cwd=cwd, timeout=900, given=given, **environment)
        if not (done.returncode == 75 and "Ray did not start" in done.stderr):
            break
    return done
