"""The sources of a task's data: files in a folder, in an archive, or named individually.

A Format describes and reads one layout of files. A task's formats, most trusted first, are the registry from which data
are found, listed and read, and from which docs/DATA.md is generated.
"""

import hashlib
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from proxytune.datasets.archives import archive_index, is_archive, read_members
from proxytune.datasets.errors import DataError
from proxytune.datasets.file_records import known_sha256
from proxytune.datasets.file_tree import ArchiveTree, FileTree, FolderTree, alternatives
from proxytune.datasets.tables import has_columns

if TYPE_CHECKING:
    from proxytune.datasets.task import Rows

# The content of up to this many files is hashed; of more (image folders), only names, sizes and times.
_MAX_HASHED_FILES = 64
NAMED_PICKLES, NAMED_NPZ = (
    "pickles by name",
    "npz by name",
)  # the form of such files, whose ids are ready-made
_SHARD = re.compile(r"(.*)-\d+-of-(\d+)\.\w+")


@dataclass
class Source:
    """Files found for one task.

    form names the format and is stored with the data. path is a folder or an archive (None: generated); files maps each
    part (`train`) to its files below path, `missing` lists patterns without a match. partial allows incomplete data.
    notes, gaps and counts are filled while reading: conventions to store with the data, what is missing, and the number
    of rows of each of the source's splits.
    """

    form: str
    path: Path | None = None
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    format: "Format | None" = field(default=None, repr=False)
    partial: bool = False
    records: Path | None = None
    scratch: Path | None = None
    notes: dict[str, str] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    _opened: list[Generator[tuple[str, str, IO[bytes]], None, None]] = field(default_factory=list, repr=False)

    @property
    def is_archive(self) -> bool:
        """Whether the files are members of an archive."""
        return self.path is not None and self.path.is_file()

    @property
    def lacks_classes_only(self) -> bool:
        """Whether every split has files and only some of its classes are missing."""
        assert self.format is not None
        there = {part.split()[0] for part, names in self.files.items() if names}
        wanted = {part.split()[0] for part in self.format.parts if part not in self.format.optional}
        return self.format.per_class and wanted <= there

    def place(self, name: str) -> str:
        """The location of one of the files, for errors."""
        assert self.path is not None
        return f"{self.path}:{name}" if self.is_archive else str(self.path / name)

    def described(self, split: str) -> str:
        """The location from which a split was read, for errors."""
        files = self.files.get(split, ())
        return self.place(files[0]) if len(files) == 1 else str(self.path)

    def lacks(self, what: str) -> None:
        """Record that something is missing. Raises DataError unless partial data are allowed."""
        if not self.partial:
            raise DataError(f"{what}; set task.partial: true to allow incomplete data")
        self.gaps.append(what)

    def open(self, parts: Iterable[str] | None = None) -> Iterator[tuple[str, str, IO[bytes]]]:
        """(part, file name, stream) of the parts' files (default: all); an archive is read in its own order, in one pass.

        A stream must be read before the next one is requested. `close` closes streams that a reader left open.
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
        part_of = {name: part for part in parts for name in self.files.get(part, ())}
        if self.is_archive:
            with closing(read_members(self.path, frozenset(part_of))) as members:
                for name, stream in members:
                    yield part_of[name], name, stream
            return
        for name, part in part_of.items():
            try:
                stream = open(self.path / name, "rb")  # noqa: SIM115  # only errors of opening are converted
            except OSError as error:
                raise DataError(f"{self.place(name)}: {error.strerror}") from None
            with stream:
                yield part, name, stream

    def digest(self) -> str:
        """A sha256 that identifies the data: of the archive's bytes, or of the files in a folder."""
        if self.path is None:
            return "generated"
        if self.is_archive:
            return archive_index(self.path, self.records).sha256
        names = sorted(name for files in self.files.values() for name in files)
        digest = hashlib.sha256()
        for name in names:
            path = self.path / name
            try:
                status = path.stat()
                detail = (
                    known_sha256(path, self.records)
                    if len(names) <= _MAX_HASHED_FILES
                    else str(status.st_mtime_ns)
                )
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}") from None
            digest.update(f"{name}\0{status.st_size}\0{detail}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Format:
    """One layout and naming of a task's files, and their reader.

    folders are tried in order under the root. parts maps a part to the pattern of its files in the folder: `*` matches
    anything but a slash, `?` one character, `{a,b}` the first alternative that exists. All parts except the optional ones
    must exist. archives are name patterns (lower case) of archives that contain the same folders. columns are those that
    Parquet and Arrow files must have, each with its possible names, since file names do not identify the task. num_files
    is the number of files of a part. per_class: a part (`train 3`) is one class of a split, which may be missing in
    partial data. rows are the rows of each split in the original data, classes the rows per class; if empty, nothing is
    compared. tested: the reader was tested on real or on made-up files. unreadable: why such files are refused. A format
    without folders reads individually named files.
    """

    name: str
    folders: Sequence[str]
    parts: Mapping[str, str]
    read: Callable[[Any, Source], Iterator[tuple[str, "Rows"]]]
    tested: Literal["real", "made"]
    optional: Sequence[str] = ()
    archives: Sequence[str] = ()
    columns: Sequence[tuple[str, ...]] = ()
    num_files: Mapping[str, int] = field(default_factory=dict)
    per_class: bool = False
    rows: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    note: str = ""
    unreadable: str = ""

    def sources(self, tree: FileTree) -> Iterator[Source]:
        """The sources of this format in the tree, complete or not."""
        seen: set[str] = set()
        for pattern in self.folders:
            for folder in tree.folders(pattern):
                if folder not in seen:
                    seen.add(folder)
                    yield from self.found_in(tree, folder)

    def wanted(self) -> list[str]:
        """Patterns of the required files, relative to the root."""
        folder = "." if "." in self.folders else min(self.folders, key=len)
        return [_shown(folder, pattern) for part, pattern in self.parts.items() if part not in self.optional]

    def found_in(self, tree: FileTree, folder: str) -> Iterator[Source]:
        """The source of this format in one folder of the tree, if any of its files exist."""
        files: dict[str, tuple[str, ...]] = {}
        missing = []
        for part, pattern in self.parts.items():
            files[part] = tree.match(folder, pattern)
            if not files[part] and part not in self.optional:
                missing.append(_shown(folder, pattern))
        if not any(files.values()) or len(missing) == len(set(self.parts) - set(self.optional)):
            return
        if any(self._is_foreign(tree, names[0]) for names in files.values() if names):
            return
        if self.unreadable:
            missing = [self.unreadable]
        yield Source(self.name, tree.path.resolve(), files, tuple(missing), format=self, records=tree.records)

    def _is_foreign(self, tree: FileTree, name: str) -> bool:
        return bool(
            self.columns
            and isinstance(tree, FolderTree)
            and name.lower().endswith((".parquet", ".arrow"))
            and not has_columns(tree.path / name, self.columns)
        )

    def check_files(self, source: Source) -> None:
        """Raise DataError, or record it for partial data, if files of a set are missing."""
        for part, wanted in self.num_files.items():
            if len(source.files[part]) < wanted:
                source.lacks(
                    f"{source.path}: {len(source.files[part])} of {wanted} files {self.parts[part]} found"
                )
        for names in source.files.values():
            shards = [match for name in names if (match := _SHARD.fullmatch(name))]
            if shards and len(shards) < int(shards[0][2]):
                source.lacks(
                    f"{source.path}: {len(shards)} of {int(shards[0][2])} files {shards[0][1]}-* found"
                )


def _shown(folder: str, pattern: str) -> str:
    first = next(alternatives(pattern))
    return first if folder == "." else f"{folder}/{first}"


def trees(
    root: Path, formats: Sequence[Format], records: Path | None, problems: dict[str, str]
) -> Iterator[FileTree]:
    """The root folder, then its archives whose names match a format; or the root itself if it is an archive.

    Errors of unreadable archives are added to problems, by path.
    """
    if root.is_dir():
        folder = FolderTree(root, records)
        yield folder
        patterns = {pattern for one in formats for pattern in one.archives}
        archives = [
            path
            for path in (root / name for name in folder.listing(".")[1])
            if any(fnmatch(path.name.lower(), pattern) for pattern in patterns) and is_archive(path)
        ]
    else:
        archives = [root] if is_archive(root) else []
    for path in archives:
        try:
            yield ArchiveTree(path, records)
        except (DataError, OSError) as error:
            problems[str(path)] = str(error)


def named_files(task: str, files: Mapping[str, Path], formats: Sequence[Format]) -> Source:
    """The source whose parts are these files. Raises DataError for a missing file or part."""
    by_name = [one for one in formats if not one.folders]
    if not by_name:
        raise DataError(f"{task} is generated and reads no files; remove task.files")
    (chosen,) = by_name
    unknown = sorted(files.keys() - chosen.parts.keys())
    missing = [part for part in chosen.parts if part not in files and part not in chosen.optional]
    if unknown or missing:
        raise DataError(
            f"task.files names {', '.join(files)}; {task} takes {', '.join(chosen.parts)}"
            + (f", {', '.join(chosen.optional)} may be left out" if chosen.optional else "")
        )
    if len({path.resolve() for path in files.values()}) < len(files):
        raise DataError(f"task.files names one file for two splits: {', '.join(map(str, files.values()))}")
    for part, path in files.items():
        if not path.is_file():
            raise DataError(
                f"task.files.{part}: {path} {'is a folder' if path.is_dir() else 'does not exist'}"
            )
    absolute = {part: str(path.resolve().relative_to("/")) for part, path in files.items()}
    parts = {part: (absolute[part],) if part in absolute else () for part in chosen.parts}
    suffixes = {path.suffix.lower() for path in files.values()}
    form = NAMED_PICKLES if suffixes & {".pickle", ".pkl"} else chosen.name
    return Source(NAMED_NPZ if ".npz" in suffixes else form, Path("/"), parts, format=chosen)
