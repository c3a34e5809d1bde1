"""A folder of an object store (S3, GCS), as far as checkpoints and exports need one, through pyarrow's filesystems.

An object is there whole or not at all, and nothing can be renamed: whoever writes several puts the one that vouches
for the others last. Credentials and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
"""

import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from proxytune.tuning.errors import StorageError


@dataclass(frozen=True)
class ObjectFolder:
    """A URL such as s3://bucket/prefix, with the few methods of a Path that are used.

    Raises:
        OSError: from any method, the store does not answer or refuses; FileNotFoundError: there is no such object.
    """

    url: str

    def __truediv__(self, name: str) -> "ObjectFolder":
        return ObjectFolder(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def read_bytes(self) -> bytes:
        store, key = _store(self.url)
        with store.open_input_stream(key) as stream:
            return bytes(stream.readall())

    def read_text(self, encoding: str) -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes | memoryview) -> None:
        """Put one object; whoever reads it meanwhile gets the old one or the new one, whole."""
        store, key = _store(self.url)
        with store.open_output_stream(key) as stream:
            stream.write(content)

    def delete(self) -> None:
        store, key = _store(self.url)
        store.delete_file(key)

    def names(self) -> list[str]:
        """The objects below, with the rest of their path, sorted."""
        from pyarrow.fs import FileSelector, FileType

        store, key = _store(self.url)
        found = store.get_file_info(FileSelector(key, recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(f"{key}/") for info in found if info.type == FileType.File)


Folder = Path | ObjectFolder


def as_folder(path: str) -> Folder:
    """A path, or an object store's folder if it is a URL."""
    return ObjectFolder(path) if "://" in path else Path(path)


def try_object_store(url: str) -> None:
    """Put, read and delete a small object, so that a missing bucket or credential is told before any training.

    Raises:
        StorageError: what the store answers.
    """
    probe = ObjectFolder(url) / f"probe-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"proxytune")
        if probe.read_bytes() != b"proxytune":
            raise OSError("it gives back other bytes than were put")
        probe.delete()
    except OSError as error:
        raise StorageError(f"{url} cannot be used: {' '.join(str(error).split())[:300]}") from None


@lru_cache(maxsize=1)
def _filesystem(bucket: str) -> Any:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(bucket)[0]


def _store(url: str) -> tuple[Any, str]:
    """The filesystem, opened once a process, and the path within."""
    scheme, _, path = url.partition("://")
    return _filesystem(f"{scheme}://{path.partition('/')[0]}"), path
