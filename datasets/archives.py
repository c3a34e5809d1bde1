"""Tar archives read as a stream: nothing is extracted to disk, and a hostile archive is refused.

Only regular files and folders with plain relative names are accepted; total size, number of members and the
ratio to the compressed size are capped before anything is decoded.
"""

import tarfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from proxytune.datasets.errors import DataError

# The whole release: 18.6 GB unpacked, about 3 million files, gzip ratio 2.4.
MAX_TOTAL_BYTES = 64 << 30
MAX_MEMBERS = 5_000_000
MAX_RATIO = 200
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".gz", ".tar.bz2", ".tar.xz")


def is_archive(path: Path) -> bool:
    """Whether the file's name is that of a tar archive (the release itself is named lra_release.gz)."""
    return path.name.endswith(SUFFIXES) and path.is_file()


def member_names(archive: Path) -> frozenset[str]:
    """Names of the regular files in the archive, normalised (no leading ./)."""
    status = archive.stat()
    return _member_names(archive, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _member_names(archive: Path, size: int, mtime_ns: int) -> frozenset[str]:
    with _opened(archive) as tar:
        names = frozenset(name for name, member in _checked_members(archive, tar) if member.isreg())
        while tar.fileobj.read(1 << 20):  # to the end, where the checksum is
            pass
        return names


def read_members(archive: Path, wanted: frozenset[str]) -> Generator[tuple[str, IO[bytes]], None, None]:
    """The wanted files in the archive's order, in one pass; a stream is to be read before the next is taken."""
    with _opened(archive) as tar:
        missing = set(wanted)
        for name, member in _checked_members(archive, tar):
            if name in missing:
                missing.remove(name)
                stream = tar.extractfile(member)
                assert stream is not None  # a regular file
                yield name, stream
            if not missing:
                return
    raise DataError(f"{archive}: member {min(missing)} is missing")


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(archive, "r:*") as tar:
            yield tar
    except (tarfile.TarError, EOFError, zlib.error, LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{archive}: {error.strerror}") from None
        raise DataError(
            f"{archive}: truncated, damaged or no tar archive ({error}); fetch it again"
        ) from None


def _checked_members(archive: Path, tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    seen: set[str] = set()
    total = 0
    allowed = min(MAX_TOTAL_BYTES, MAX_RATIO * max(archive.stat().st_size, 1 << 20))
    while (member := tar.next()) is not None:
        path = PurePosixPath(member.name)
        name = str(path)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise DataError(f"{archive}: member name {member.name!r} leaves the archive's folder; refused")
        if not (member.isreg() or member.isdir()):
            raise DataError(f"{archive}: member {member.name!r} is a link or a device; refused")
        if member.isreg() and name in seen:
            raise DataError(f"{archive}: member {member.name!r} is there twice; refused")
        seen.add(name)
        total += member.size
        if total > allowed or len(seen) > MAX_MEMBERS:
            raise DataError(
                f"{archive}: over {allowed} bytes or {MAX_MEMBERS} members when unpacked, at {member.name!r}; refused"
            )
        tar.members = []  # type: ignore[attr-defined]  # the stream keeps every header otherwise
        yield name, member
