"""Whether other users of a machine can replace what Ray runs there.

Ray gives its folders mode 0777, and the packages of jobs lie in them; so a folder above must keep others out.
"""

import os
from pathlib import Path

from proxytune.tuning.errors import InputError


def check_private(folder: Path) -> None:
    """See that `folder`, or one above it, is this user's and closed to all others.

    Raises:
        InputError: none is.
    """
    real = folder.resolve()
    for above in (real, *real.parents):
        status = above.stat()
        if status.st_uid == os.getuid() and not status.st_mode & 0o077:
            return
    raise InputError(
        f"other users of the machine can replace what Ray runs from {real}: start Ray with --temp-dir=FOLDER/ray, "
        "where FOLDER is its user's and has mode 700"
    )
