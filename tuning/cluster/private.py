"""Whether other users of a machine can replace what Ray runs there.

Ray gives its folders mode 0777, and the packages of jobs lie in them; so a folder above must keep others out.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from proxytune.tuning.errors import InputError

LOOK = """\
import json, os
folder = path = os.path.dirname(os.path.realpath("/proc/self/fd/1"))
above = []
while True:
    status = os.stat(path)
    above.append([status.st_uid, status.st_mode])
    if path == "/":
        break
    path = os.path.dirname(path)
print(json.dumps([folder, os.getuid(), above]))
"""
"""A script that prints what `check_answer` judges. Ray writes the output of a job into its session's folder."""


def check_private(folder: Path) -> None:
    """See that `folder`, or one above it, is this user's and closed to all others.

    Raises:
        InputError: none is.
    """
    real = folder.resolve()
    states = (above.stat() for above in (real, *real.parents))
    _judge(str(real), os.getuid(), ((status.st_uid, status.st_mode) for status in states))


def check_answer(line: str) -> None:
    """`check_private` of the folder that a job of LOOK wrote to, by the line that it printed.

    Raises:
        InputError: others can enter it, or the line is no answer.
    """
    try:
        folder, user, above = json.loads(line)
    except ValueError:
        raise InputError(f"its head node cannot run Python: {line[:300]}") from None
    _judge(folder, user, above)


def _judge(folder: str, user: int, above: Iterable[tuple[int, int]]) -> None:
    """By (owner, mode) of the folder and those above it."""
    if not any(owner == user and not mode & 0o077 for owner, mode in above):
        raise InputError(
            f"other users of the machine can replace what Ray runs from {folder}: start Ray with --temp-dir=FOLDER/ray, "
            "where FOLDER is its user's and has mode 700"
        )
