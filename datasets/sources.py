"""Where a task's files lie: under a folder or inside an archive, in one of the layouts that users have."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from proxytune.datasets.archives import is_archive, member_names, read_members
from proxytune.datasets.errors import DataError

# Digest the content of up to this many files; of more (image folders), their names, sizes and times.
_MAX_HASHED_FILES = 64


@dataclass(frozen=True)
class Source:
    """Files found for one task.

    form names the layout and is stored with the data. path is a folder or an archive (None: generated);
    files maps each part (`train`, or one file's own name) to its place below path.
    """

    form: str
    path: Path | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def place(self, part: str) -> str:
        """How an error names a part's file."""
        assert self.path is not None
        separator = ":" if self.path.is_file() else "/"
        return f"{self.path}{separator}{self.files[part]}"

    def open(self, parts: Iterable[str] | None = None) -> Iterator[tuple[str, IO[bytes]]]:
        """Open the parts (all by default) one after another, an archive's in its own order and in one pass."""
        assert self.path is not None
        wanted = {self.files[part]: part for part in (self.files if parts is None else parts)}
        if self.path.is_file():
            for name, stream in read_members(self.path, frozenset(wanted)):
                yield wanted[name], stream
        else:
            for name, part in wanted.items():
                try:
                    with open(self.path / name, "rb") as stream:
                        yield part, stream
                except OSError as error:
                    raise DataError(f"{self.path / name}: {error.strerror}") from None

    def digest(self) -> str:
        """A sha256 that changes when the data do; of the archive's bytes, or of the files in a folder."""
        if self.path is None:
            return "generated"
        if self.path.is_file():
            return file_sha256(self.path)
        digest = hashlib.sha256()
        hashed = len(self.files) <= _MAX_HASHED_FILES
        for name in sorted(self.files.values()):
            path = self.path / name
            status = path.stat()
            detail = file_sha256(path) if hashed else str(status.st_mtime_ns)
            digest.update(f"{name}\0{status.st_size}\0{detail}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Layout:
    """One place and naming in which a task's files are found.

    folders are tried in order under the root; parts maps a part to a file name in the folder. archives are
    name patterns of tar files beside or instead of the folder.
    """

    form: str
    folders: Sequence[str]
    parts: Mapping[str, str]
    archives: Sequence[str] = ()


def archives_under(root: Path, patterns: Sequence[str]) -> list[Path]:
    """The archives in root (or root itself) whose name fits a pattern."""
    candidates = [root] if root.is_file() else sorted(root.iterdir()) if root.is_dir() else []
    return [
        path
        for path in candidates
        if any(fnmatch(path.name, pattern) for pattern in patterns) and is_archive(path)
    ]


def locate(task: str, root: Path, layouts: Sequence[Layout]) -> Source:
    """The first layout of which every part is there.

    Raises DataError that lists the sub-paths tried, and what is missing where only some parts were found.
    """
    if not root.exists():
        raise DataError(f"root {root} does not exist; give the folder or archive that holds the {task} data")
    tried: list[str] = []
    partial: list[str] = []
    for layout in layouts:
        trees: list[tuple[Path, frozenset[str] | None]] = [(root, None)] if root.is_dir() else []
        trees += [(path, member_names(path)) for path in archives_under(root, layout.archives)]
        for path, names in trees:
            for folder in layout.folders:
                files = {part: os.path.normpath(f"{folder}/{name}") for part, name in layout.parts.items()}
                present = {
                    part
                    for part, name in files.items()
                    if (name in names if names is not None else (path / name).is_file())
                }
                if len(present) == len(files):
                    return Source(layout.form, path.resolve(), files)
                where = path.name + ":" if names is not None else ""
                absent = sorted(set(files.values()) - {files[part] for part in present})
                if present:
                    partial.append(f"{where}{', '.join(absent)}")
                tried.append(f"{where}{next(iter(files.values()))}")
    found = f"; incomplete, missing: {'; '.join(partial)}" if partial else ""
    raise DataError(f"no {task} data under {root}{found}; tried {', '.join(dict.fromkeys(tried))}")


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
