"""The destination of an export: a new folder, or an empty prefix of an object store."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxytune.models.exported import SUMS
from proxytune.tuning.errors import InputError, StorageError, one_line
from proxytune.tuning.spec.locations import object_url
from proxytune.tuning.store.folder import Folder


@contextmanager
def destination(path: str) -> Iterator[Path]:
    """The folder to write; for an object store, a temporary folder that is uploaded if the context ends without an error.

    SHA256SUMS is uploaded last: an export that has it is complete.

    Raises:
        InputError: something exists at the path, or it is not a URL of an object store.
        StorageError: the store cannot be reached or denies access.
    """
    if "://" not in path:
        yield Path(path)
        return
    try:
        target = Folder(object_url(path))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    try:
        if target.names():
            raise InputError(f"{path} exists; name an empty prefix, or remove it first")
        with tempfile.TemporaryDirectory(prefix="proxytune-") as name:
            folder = Path(name) / target.name
            yield folder
            files = sorted(
                path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
            )
            for file in sorted(files, key=lambda file: (file == SUMS, file.endswith(SUMS))):
                (target / file).write_bytes((folder / file).read_bytes())
    except OSError as error:
        raise StorageError(f"{path}: {one_line(error)}") from None
