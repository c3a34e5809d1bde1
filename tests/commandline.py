"""Run the `proxytune` command in a separate process, as a user does."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CommandResult:
    """The exit code and the output of a command that ran in the test's process."""

    code: int
    stdout: str
    stderr: str


def command(*arguments: object) -> list[str]:
    """The command line that runs `proxytune` with these arguments."""
    return [sys.executable, "-P", "-m", "proxytune.tuning", *map(str, arguments)]


def proxytune(
    *arguments: object, cwd: Path, timeout: float = 600, stdin: str | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run `proxytune` and wait for its exit; fail the test if it prints a traceback. `timeout` is in seconds."""
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=os.environ | environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def proxytune_on_ray(
    *arguments: object, cwd: Path, stdin: str | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run `proxytune`, up to five times if Ray does not start.

    Ray waits 30 s for its processes to start, which is too short on a loaded machine.
    """
    for _ in range(5):
        done = proxytune(*arguments, cwd=cwd, timeout=900, stdin=stdin, **environment)
        if not (done.returncode == 75 and "Ray did not start" in done.stderr):
            break
    return done
