"""Folders of files on a disk or in an object store (S3, GCS), both through pyarrow's file systems.

Each file is written atomically, but files cannot be renamed: a writer of several files writes the one that commits the
others last. Credentials and endpoint of an object store come from the environment (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, ...).
"""

import os
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from proxytune.tuning.errors import StorageError, one_line


@dataclass(frozen=True)
class Folder:
    """An absolute path, or a URL such as s3://bucket/prefix.

    Raises:
        OSError: from any method, the disk or the store does not respond or refuses; FileNotFoundError: no such file.
    """

    url: str

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def is_local(self) -> bool:
        return "://" not in self.url

    def read_bytes(self) -> bytes:
        """The content of the file of this name."""
        store, path = _store(self.url)
        with store.open_input_stream(path) as stream:
            return bytes(stream.readall())

    def write_bytes(self, content: bytes | memoryview) -> None:
        """Write the file of this name atomically: a concurrent reader gets either the old or the new content.

        On a disk the file survives a power failure once this returns.
        """
        if self.is_local:
            file = Path(self.url)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_file(file, content)
            return
        store, path = _store(self.url)
        with store.open_output_stream(path) as stream:
            stream.write(content)

    def delete(self) -> None:
        """Delete the file of this name."""
        store, path = _store(self.url)
        store.delete_file(path)

    def delete_all(self) -> None:
        """Delete the folder and its contents, if it exists."""
        store, path = _store(self.url)
        if self.is_local:
            store.delete_dir_contents(path, missing_dir_ok=True)
            store.delete_dir(path)
        else:
            for name in self.names():
                (self / name).delete()

    def names(self) -> list[str]:
        """Relative paths of all files below the folder, sorted."""
        from pyarrow.fs import FileType

        return self._listed(FileType.File, recursive=True)

    def folders(self) -> list[str]:
        """Names of the folders in it, sorted."""
        from pyarrow.fs import FileType

        return self._listed(FileType.Directory, recursive=False)

    def _listed(self, kind: Any, *, recursive: bool) -> list[str]:
        from pyarrow.fs import FileSelector

        store, path = _store(self.url)
        found = store.get_file_info(FileSelector(path, recursive=recursive, allow_not_found=True))
        return sorted(info.path.removeprefix(f"{path}/") for info in found if info.type == kind)


def try_folder(folder: Folder) -> None:
    """Write, read and delete a small file, so that a missing bucket or credential is reported before any training.

    Raises:
        StorageError: with the answer of the store.
    """
    probe = folder / f"probe-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"proxytune")
        if probe.read_bytes() != b"proxytune":
            raise OSError("it returns other bytes than were written")
        probe.delete()
    except OSError as error:
        raise StorageError(f"{folder} cannot be used: {one_line(error)}") from None


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Write and sync a temporary file, rename it, and sync the folder. pyarrow does not sync."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@lru_cache(maxsize=1)
def _filesystem(bucket: str) -> Any:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(bucket)[0]


def _store(url: str) -> tuple[Any, str]:
    """The file system, opened once per process, and the path within it."""
    scheme, separator, path = url.partition("://")
    if not separator:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), url
    return _filesystem(f"{scheme}://{path.partition('/')[0]}"), path
