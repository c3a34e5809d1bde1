"""Streaming readers for archives (zip, and tar in the usual compressions). Nothing is extracted to disk.

Malicious archives are refused: names outside the archive's folder, devices, duplicate names. Unpacked size, number of
members, compression ratio, name headers and trailing bytes are limited before memory is allocated for them. Links are
never followed: a link that a format needs is refused, any other is ignored.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from proxytune.datasets import file_records
from proxytune.datasets.errors import DataError

# The whole release: 18.6 GB unpacked, about 3 million files, gzip ratio 2.4.
MAX_TOTAL_BYTES = 64 << 30
MAX_MEMBERS = 5_000_000
MAX_RATIO = 200
MAX_HEADER_BYTES = 1 << 20  # of a pax or GNU name header; valid ones are shorter than the longest path
MAX_TRAILING_BYTES = 16 << 20  # after the end of a tar archive, which pads to its block size
_TAR_ENDINGS = ("", ".gz", ".bz2", ".xz", ".zst")
SUFFIXES = (
    *(f".tar{ending}" for ending in _TAR_ENDINGS),
    *(".tgz", ".taz", ".tbz", ".tbz2", ".tb2", ".txz", ".tlz", ".tzst", ".gz", ".zip"),
)
_BROWSERS_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")
_SPARSE = "a sparse member, which no data need"
_NAME_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


@dataclass(frozen=True)
class ArchiveIndex:
    """Names of the regular files and of the links in an archive (no leading ./), and the archive's sha256."""

    names: frozenset[str]
    links: frozenset[str]
    sha256: str


def is_archive(path: Path) -> bool:
    """Whether the file has the suffix of an archive, ignoring case (the release is named lra_release.gz)."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith("._") and path.is_file()


def is_ignored(name: str) -> bool:
    """Whether it is a metadata file of macOS (`._x`, `__MACOSX/`) or a file browser, or has an unprintable name."""
    parts = name.split("/")
    return (
        parts[-1].startswith("._")
        or parts[-1] in _BROWSERS_FILES
        or parts[0] == "__MACOSX"
        or not name.isprintable()
    )


def archive_index(archive: Path, records: Path | None = None) -> ArchiveIndex:
    """The archive's index, read once per process. If records is a folder, it is cached there for all processes."""
    status = archive.stat()
    return _index(archive, status.st_size, status.st_mtime_ns, records)


@lru_cache(maxsize=16)
def _index(archive: Path, size: int, mtime_ns: int, records: Path | None) -> ArchiveIndex:
    kept = file_records.load(records, "index", archive)
    if kept is not None:
        sha256, num_links, *names = kept
        links, names = names[: int(num_links)], names[int(num_links) :]
        return ArchiveIndex(frozenset(names), frozenset(links), sha256)
    index = _read_index(archive)
    lines = [index.sha256, str(len(index.links)), *sorted(index.links), *sorted(index.names)]
    file_records.save(records, "index", archive, lines)
    return index


def _read_index(archive: Path) -> ArchiveIndex:
    names, links = set[str](), set[str]()
    with _errors_named(archive), open(archive, "rb") as raw:
        if zipfile.is_zipfile(raw):
            with zipfile.ZipFile(raw) as zipped:
                names = {name for name, _ in _zip_members(archive, zipped)}
            raw.seek(0)
            return ArchiveIndex(frozenset(names), frozenset(), hashlib.file_digest(raw, "sha256").hexdigest())
        raw.seek(0)
        hashed = _Hashed(raw)
        stream = _Capped(archive, _decompressed(hashed))
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_CappedHeader) as tar:  # type: ignore[call-overload]
            for name, member in _tar_members(archive, tar):
                (links if member.issym() or member.islnk() else names).add(name)
        stream.drain()  # read to the end, where the checksum is
        return ArchiveIndex(frozenset(names), frozenset(links - names), hashed.hexdigest())


def read_members(archive: Path, wanted: frozenset[str]) -> Generator[tuple[str, IO[bytes]], None, None]:
    """The wanted files in the archive's order, in one pass. A stream must be read before the next one is requested."""
    missing = set(wanted)
    with _errors_named(archive), open(archive, "rb") as raw:
        if zipfile.is_zipfile(raw):
            with zipfile.ZipFile(raw) as zipped:
                for name, member in _zip_members(archive, zipped):
                    if name in missing:
                        missing.remove(name)
                        with zipped.open(member) as stream:
                            yield name, io.BufferedReader(_Member(archive, stream))
        else:
            raw.seek(0)
            capped = _Capped(archive, _decompressed(raw))
            with tarfile.open(fileobj=capped, mode="r|", tarinfo=_CappedHeader) as tar:  # type: ignore[call-overload]
                for name, info in _tar_members(archive, tar):
                    if name in missing and info.isreg():
                        missing.remove(name)
                        yield name, io.BufferedReader(_Member(archive, tar.extractfile(info)))
                    if not missing:
                        return
    if missing:
        raise DataError(f"{archive}: member {min(missing)} is missing")


def seekable(stream: IO[bytes]) -> IO[bytes]:
    """The stream, or for an archive's member its content in memory."""
    return (
        stream if isinstance(stream, io.BufferedReader) and stream.seekable() else io.BytesIO(stream.read())
    )


class _Member(io.RawIOBase):
    """A member's bytes. Errors while reading are reported with the archive's name."""

    def __init__(self, archive: Path, stream: Any) -> None:
        self._archive, self._stream = archive, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _errors_named(self._archive):
            content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class _Refused(Exception):
    """The archive contains something that must not be read; the message gives the reason."""


@contextmanager
def _errors_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except (_Refused, RecursionError) as error:
        why = "a name header for each name header" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{archive}: {why}; refused") from None
    except DataError:
        raise
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        pa.ArrowException,
        OSError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{archive}: {error.strerror}") from None
        why = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise DataError(f"{archive}: truncated, damaged or no archive ({why}); fetch it again") from None


class _CappedHeader(tarfile.TarInfo):
    """Refuses a long name header, and the map of a sparse member, before tarfile reads them into memory."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_CappedHeader":
        header = super().frombuf(buf, encoding, errors)
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise _Refused(_SPARSE)
        if header.type in _NAME_HEADERS and header.size > MAX_HEADER_BYTES:
            raise _Refused(f"a name header of {header.size:,} bytes, {MAX_HEADER_BYTES:,} are allowed")
        return header

    def _proc_gnusparse_10(self, *_: object) -> None:
        """Overrides tarfile's reader of a sparse member's map, whose length is not limited."""
        raise _Refused(_SPARSE)


class _Hashed:
    """Reads a file and computes the sha256 of all bytes read."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._digest = raw, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self._raw.read(size)
        self._digest.update(content)
        return content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def hexdigest(self) -> str:
        while self.read(1 << 20):
            pass
        return self._digest.hexdigest()

    closed = False


class _Capped:
    """A stream of unpacked bytes, limited by the archive's size."""

    def __init__(self, archive: Path, stream: Any) -> None:
        self._archive, self._stream, self._total = archive, stream, 0
        self._allowed = _allowed_bytes(archive)

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._stream.read(size)
        self._total += len(content)
        if self._total > self._allowed:
            raise DataError(f"{self._archive}: over {self._allowed:,} bytes when unpacked; refused")
        return content

    def drain(self) -> None:
        """Read the bytes after the end of the archive."""
        trailing = 0
        while content := self.read(1 << 20):
            trailing += len(content)
            if trailing > MAX_TRAILING_BYTES:
                raise DataError(f"{self._archive}: over {MAX_TRAILING_BYTES:,} bytes after its end; refused")


def _decompressed(raw: Any) -> Any:
    start = raw.read(6)
    stream = _Rewound(start, raw)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=cast("Any", stream))
    if start.startswith(b"BZh"):
        return bz2.BZ2File(cast("Any", stream))
    if start.startswith((b"\xfd7zXZ", b"\x5d\x00\x00")):
        return lzma.LZMAFile(cast("Any", stream))
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")
    return stream


class _Rewound:
    """A stream whose first bytes were already read."""

    closed = False

    def __init__(self, start: bytes, raw: Any) -> None:
        self._start, self._raw = start, raw

    def read(self, size: int = -1) -> bytes:
        if not self._start:
            return cast("bytes", self._raw.read(size))
        if size < 0:
            start, self._start = self._start, b""
            return start + cast("bytes", self._raw.read())
        start, self._start = self._start[:size], self._start[size:]
        return start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def _allowed_bytes(archive: Path) -> int:
    return min(MAX_TOTAL_BYTES, MAX_RATIO * max(archive.stat().st_size, 1 << 20))


class _Checks:
    """Checks of every member, for all kinds of archives."""

    def __init__(self, archive: Path) -> None:
        self._archive, self._seen, self._total = archive, set[str](), 0
        self._allowed = _allowed_bytes(archive)

    def name(self, name: str, size: int, *, is_file: bool) -> str:
        """The normalised name. Raises DataError if the member is malicious."""
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
            raise DataError(f"{self._archive}: member name {name!r} leaves the archive's folder; refused")
        path = posixpath.normpath(name)
        if is_file and path in self._seen:
            raise DataError(f"{self._archive}: member {name!r} is duplicated; refused")
        self._seen.add(path)
        self._total += size
        if self._total > self._allowed or len(self._seen) > MAX_MEMBERS:
            raise DataError(
                f"{self._archive}: over {self._allowed:,} bytes or {MAX_MEMBERS:,} members when unpacked, at {name!r}; refused"
            )
        return path


def _tar_members(archive: Path, tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """The archive's files and links."""
    checks = _Checks(archive)
    while (member := tar.next()) is not None:
        name = checks.name(member.name, member.size, is_file=member.isreg())
        if member.ischr() or member.isblk() or member.isfifo():
            raise DataError(f"{archive}: member {member.name!r} is a device; refused")
        tar.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps every header
        if not member.isdir() and not is_ignored(name):
            yield name, member


def _zip_members(archive: Path, zipped: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    checks = _Checks(archive)
    for member in zipped.infolist():
        # Archives made on Windows may have backslashes; the upper half of the attributes is Unix's mode.
        name = checks.name(member.filename.replace("\\", "/"), member.file_size, is_file=not member.is_dir())
        if member.flag_bits & 1:
            raise DataError(f"{archive}: member {name!r} is encrypted; refused, unpack it with its password")
        is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
        if not member.is_dir() and not is_link and not is_ignored(name):
            yield name, member
