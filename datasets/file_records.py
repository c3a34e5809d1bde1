"""A cache of facts about large files (an archive's index, a file's sha256), keyed by name, size and time.

Every process that prepares or opens a task needs them, and would otherwise read the files again.
"""

import hashlib
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path


def load(folder: Path | None, kind: str, path: Path) -> list[str] | None:
    """The lines saved for the file's current version; None if there are none, or no folder."""
    if folder is None:
        return None
    try:
        first, *lines = (folder / _name(kind, path)).read_text().split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return lines if first == _stamp(path, len(lines)) else None


def save(folder: Path | None, kind: str, path: Path, lines: list[str]) -> None:
    """Save the lines, which must not contain line breaks. Errors are ignored: the file is then read again."""
    if folder is None:
        return
    target = folder / _name(kind, path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text("\n".join([_stamp(path, len(lines)), *lines]))
        temporary.replace(target)
    except (OSError, UnicodeEncodeError):
        with suppress(OSError):
            temporary.unlink()


def _name(kind: str, path: Path) -> str:
    return f"{kind}-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]}"


def _stamp(path: Path, num_lines: int) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {num_lines}"


def known_sha256(path: Path, folder: Path | None) -> str:
    """The sha256 of a file's bytes. The file is read again only if its size or time has changed."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns, folder)


@lru_cache
def _sha256(path: Path, size: int, mtime_ns: int, folder: Path | None) -> str:
    kept = load(folder, "sha256", path)
    if kept is not None:
        return kept[0]
    digest = file_sha256(path)
    if size > 1 << 20:
        save(folder, "sha256", path, [digest])
    return digest


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
