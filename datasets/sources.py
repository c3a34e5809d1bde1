"""Where a task's files lie: under a folder or inside an archive, in one of the layouts that users have."""

import hashlib
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import IO

from proxytune.datasets.archives import is_archive, member_names, read_members
from proxytune.datasets.errors import DataError
from proxytune.datasets.tables import has_columns

# Digest the content of up to this many files; of more (image folders), their names, sizes and times.
_MAX_HASHED_FILES = 64


@dataclass(frozen=True)
class Source:
    """Files found for one task.

    form names the layout and is stored with the data. path is a folder or an archive (None: generated);
    files maps each part (`train`) to its files below path, `missing` lists patterns that nothing matched.
    notes is for what reading finds out and the prepared data should say (skipped images).
    """

    form: str
    path: Path | None = None
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    _opened: list[Generator[tuple[str, str, IO[bytes]], None, None]] = field(
        default_factory=list, repr=False, compare=False
    )

    def place(self, name: str) -> str:
        """How an error names one of the files."""
        assert self.path is not None
        return f"{self.path}{':' if self.path.is_file() else '/'}{name}"

    def open(self, parts: Iterable[str] | None = None) -> Iterator[tuple[str, str, IO[bytes]]]:
        """(part, file name, stream) of the parts' files, all by default; an archive's in its own order, one pass.

        A stream is to be read before the next is taken; `close` closes what a reader left open.
        """
        streams = self._streams(self.files if parts is None else parts)
        self._opened.append(streams)
        return streams

    def close(self) -> None:
        """Close the streams of readers that ended early."""
        for streams in self._opened:
            streams.close()
        self._opened.clear()

    def _streams(self, parts: Iterable[str]) -> Generator[tuple[str, str, IO[bytes]], None, None]:
        assert self.path is not None
        part_of = {name: part for part in parts for name in self.files[part]}
        if self.path.is_file():
            with closing(read_members(self.path, frozenset(part_of))) as members:
                for name, stream in members:
                    yield part_of[name], name, stream
            return
        for name, part in part_of.items():
            try:
                stream = open(self.path / name, "rb")  # noqa: SIM115  # the error is for opening alone
            except OSError as error:
                raise DataError(f"{self.place(name)}: {error.strerror}") from None
            with stream:
                yield part, name, stream

    def digest(self) -> str:
        """A sha256 that changes when the data do: of the archive's bytes, or of the files in a folder."""
        if self.path is None:
            return "generated"
        if self.path.is_file():
            return _known_sha256(self.path)
        names = sorted(name for files in self.files.values() for name in files)
        digest = hashlib.sha256()
        for name in names:
            path = self.path / name
            status = path.stat()
            detail = _known_sha256(path) if len(names) <= _MAX_HASHED_FILES else str(status.st_mtime_ns)
            digest.update(f"{name}\0{status.st_size}\0{detail}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Layout:
    """One place and naming in which a task's files are found.

    folders are tried in order under the root; parts maps a part to the pattern of its files in the folder
    (`*` stands for anything but a slash). archives are name patterns of tar files with the same folders inside.
    columns are those that Parquet files must have, each by its possible names: file names alone do not tell whose
    they are.
    """

    form: str
    folders: Sequence[str]
    parts: Mapping[str, str]
    archives: Sequence[str] = ()
    columns: Sequence[tuple[str, ...]] = ()

    def sources(self, root: Path) -> Iterator[Source]:
        """What is there of the layout, complete or not, in every folder of the root and every archive."""
        trees: list[tuple[Path, frozenset[str] | None]] = [(root, None)] if root.is_dir() else []
        trees += [(path, member_names(path)) for path in _archives_under(root, self.archives)]
        for path, names in trees:
            for folder in self.folders:
                patterns = {
                    part: os.path.normpath(f"{folder}/{pattern}") for part, pattern in self.parts.items()
                }
                files = {part: _matching(path, names, pattern) for part, pattern in patterns.items()}
                missing = tuple(patterns[part] for part in patterns if not files[part])
                foreign = any(
                    not has_columns(path / name, self.columns)
                    for matched in files.values()
                    for name in matched[:1]
                    if name.endswith(".parquet")
                )
                if len(missing) < len(patterns) and not foreign:
                    yield Source(self.form, path.resolve(), files, missing)


def _archives_under(root: Path, patterns: Sequence[str]) -> list[Path]:
    candidates = [root] if root.is_file() else sorted(root.iterdir()) if root.is_dir() else []
    return [
        path for path in candidates if any(fnmatch(path.name, one) for one in patterns) and is_archive(path)
    ]


def _matching(path: Path, names: frozenset[str] | None, pattern: str) -> tuple[str, ...]:
    """Files below the folder path, or among an archive's names, that fit the pattern, sorted."""
    if "*" not in pattern:
        return (pattern,) if (pattern in names if names is not None else (path / pattern).is_file()) else ()
    if names is None:
        return tuple(sorted(str(found.relative_to(path)) for found in path.glob(pattern)))
    return tuple(sorted(filter(_regex(pattern).fullmatch, names)))


@lru_cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile("[^/]*".join(re.escape(piece) for piece in pattern.split("*")))


def locate(task: str, root: Path, layouts: Sequence[Layout]) -> Source:
    """The first layout of which every part is there.

    Raises DataError that lists the sub-paths tried, and what is missing where only some parts were found.
    """
    if not root.exists():
        raise DataError(f"root {root} does not exist; give the folder or archive that holds the {task} data")
    incomplete: list[str] = []
    for layout in layouts:
        for source in layout.sources(root):
            if not source.missing:
                return source
            incomplete += [source.place(pattern) for pattern in source.missing]
    tried = [
        os.path.normpath(f"{folder}/{next(iter(layout.parts.values()))}")
        for layout in layouts
        for folder in layout.folders
    ]
    tried += [archive for layout in layouts for archive in layout.archives]
    found = f"; incomplete, missing: {', '.join(dict.fromkeys(incomplete))}" if incomplete else ""
    raise DataError(f"no {task} data under {root}{found}; tried {', '.join(dict.fromkeys(tried))}")


def _known_sha256(path: Path) -> str:
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
