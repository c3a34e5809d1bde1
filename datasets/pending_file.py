"""A file that is unnamed until it is complete. If its process is killed, the kernel removes it."""

import hashlib
import os
import uuid
from pathlib import Path


class PendingFile:
    """A new file in the folder; `stream` reads and writes it.

    If the file system does not support unnamed files, it has a name that ends with `.pending`.
    """

    def __init__(self, folder: Path) -> None:
        self._name: Path | None = None
        try:
            descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o644)
        except OSError:
            self._name = folder / f".{uuid.uuid4().hex}.pending"
            descriptor = os.open(self._name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        self.stream = open(descriptor, "w+b")  # noqa: SIM115  # closed in close

    def sha256(self) -> str:
        """sha256 of the bytes written so far, in hexadecimal."""
        self.stream.seek(0)
        return hashlib.file_digest(self.stream, "sha256").hexdigest()

    def publish(self, path: Path) -> None:
        """Sync the file to disk, name it `path`, and close it."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        if self._name is not None:
            self._name.rename(path)
            self._name = None
        else:
            folder = os.open(path.parent, os.O_RDONLY)
            try:  # a folder's descriptor makes Python follow the link under /proc
                os.link(f"/proc/self/fd/{self.stream.fileno()}", path, src_dir_fd=folder)
            finally:
                os.close(folder)
        self.close()

    def close(self) -> None:
        """Close the file; an unpublished file is removed."""
        self.stream.close()
        if self._name is not None:
            self._name.unlink(missing_ok=True)
