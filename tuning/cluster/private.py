"""Checks that other users of a machine cannot replace the code that Ray runs there.

Ray creates its folders, which contain the packages of jobs, with mode 0777; a parent folder must therefore be private.
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
"""A script that prints the input of `check_answer`. Ray writes the output of a job into its session folder."""


def check_private(folder: Path) -> None:
    """Check that `folder` or one of its parents belongs to this user and is closed to all others.

    Raises:
        InputError: other users can enter all of them.
    """
    real = folder.resolve()
    states = (above.stat() for above in (real, *real.parents))
    _require_private(str(real), os.getuid(), ((status.st_uid, status.st_mode) for status in states))


def check_answer(line: str) -> None:
    """`check_private` for the session folder of a job that ran LOOK, from the line that it printed.

    Raises:
        InputError: other users can enter the folder, or the line is not valid JSON.
    """
    try:
        folder, user, above = json.loads(line)
    except ValueError:
        raise InputError(f"its head node cannot run Python: {line[:300]}") from None
    _require_private(folder, user, above)


def _require_private(folder: str, user: int, above: Iterable[tuple[int, int]]) -> None:
    """Check the (owner, mode) of the folder and of its parents."""
    if not any(owner == user and not mode & 0o077 for owner, mode in above):
        raise InputError(
            f"other users of the machine can replace the code that Ray runs from {folder}: start Ray with "
            "--temp-dir=FOLDER/ray, where FOLDER belongs to its user and has mode 700"
        )
