"""Pattern search in a folder on disk or inside an archive."""

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from proxytune.datasets.archives import archive_index, is_ignored
from proxytune.datasets.errors import DataError


def alternatives(pattern: str) -> Iterator[str]:
    """The expansions of a pattern: `a{b,c}` gives ab, then ac."""
    match = re.search(r"\{([^{}]*)\}", pattern)  # an innermost one
    if match is None:
        yield pattern
        return
    for choice in match[1].split(","):
        yield from alternatives(pattern[: match.start()] + choice + pattern[match.end() :])


class FileTree(Protocol):
    """Files by their relative paths in `path`, a folder or an archive."""

    path: Path
    records: Path | None

    def listing(self, folder: str) -> tuple[dict[str, None], dict[str, None]]:
        """Sorted names of the folders and of the files in a folder ("." is the top); empty if it does not exist."""
        ...

    def folders(self, pattern: str) -> list[str]:
        """Folders that match the pattern, sorted, "." for the top."""
        found = ["."]
        for segment in pattern.split("/"):
            if segment != ".":
                found = [
                    _joined(folder, name)
                    for folder in found
                    for name in _fitting(self.listing(folder)[0], segment)
                ]
        return found

    def match(self, folder: str, pattern: str) -> tuple[str, ...]:
        """Files below the folder that match the first matching alternative of the pattern, sorted."""
        for one in alternatives(pattern):
            above, _, last = one.rpartition("/")
            found = tuple(
                _joined(parent, name)
                for parent in self._below(folder, above)
                for name in _fitting(self.listing(parent)[1], last)
            )
            if found:
                return tuple(sorted(found))
        return ()

    def _below(self, folder: str, pattern: str) -> list[str]:
        return self.folders(pattern if folder == "." else f"{folder}/{pattern}") if pattern else [folder]


def _joined(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _fitting(names: dict[str, None], pattern: str) -> list[str]:
    """The name itself if it exists, else the names that match ignoring case."""
    if pattern in names:
        return [pattern]
    return list(filter(_regex(pattern).fullmatch, names))


@lru_cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL | re.IGNORECASE)


class FolderTree(FileTree):
    """A folder on disk."""

    def __init__(self, path: Path, records: Path | None) -> None:
        self.path, self.records = path, records
        self._listings: dict[str, tuple[dict[str, None], dict[str, None]]] = {}

    def listing(self, folder: str) -> tuple[dict[str, None], dict[str, None]]:
        """As in FileTree; each folder is read from disk once."""
        if folder not in self._listings:
            folders, files = list[str](), list[str]()
            try:
                with os.scandir(self.path / folder) as entries:
                    for entry in entries:
                        if not is_ignored(entry.name):
                            (folders if entry.is_dir() else files).append(entry.name)
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                raise DataError(f"{self.path / folder}: {error.strerror}") from None
            self._listings[folder] = dict.fromkeys(sorted(folders)), dict.fromkeys(sorted(files))
        return self._listings[folder]


class ArchiveTree(FileTree):
    """The folders inside an archive. Links count as files, so that a format that needs a link is found and refused."""

    def __init__(self, path: Path, records: Path | None) -> None:
        self.path, self.records = path, records
        index = archive_index(path.resolve(), records)
        self._links = index.links
        self._folders: dict[str, tuple[dict[str, None], dict[str, None]]] = {".": ({}, {})}
        for name in sorted(index.names | index.links):
            above, _, last = name.rpartition("/")
            self._made(above or ".")[1][last] = None

    def _made(self, folder: str) -> tuple[dict[str, None], dict[str, None]]:
        if folder not in self._folders:
            self._folders[folder] = ({}, {})
            above, _, last = folder.rpartition("/")
            self._made(above or ".")[0][last] = None
        return self._folders[folder]

    def listing(self, folder: str) -> tuple[dict[str, None], dict[str, None]]:
        """As in FileTree, from the archive's index."""
        return self._folders.get(folder, ({}, {}))

    def match(self, folder: str, pattern: str) -> tuple[str, ...]:
        """As in FileTree. Raises DataError if a matching file is a link."""
        found = super().match(folder, pattern)
        for name in found:
            if name in self._links:
                raise DataError(f"{self.path}: member {name!r} is a link; refused, give the file itself")
        return found
