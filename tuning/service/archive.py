"""A folder as a tar stream and back: nothing of it is held in memory, it says nothing of this machine, and it may not lie."""

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from proxytune.tuning.errors import StorageError

PIECE = 1 << 20
MAX_FILES = 10_000
MEDIA_TYPE = "application/x-tar"


def tar(folder: Path, name: str) -> Iterator[bytes]:
    """The regular files below `folder` as a tar archive whose single top folder is `name`.

    Raises:
        OSError: a file cannot be read.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        entry = tarfile.TarInfo(f"{name}/{path.relative_to(folder).as_posix()}")
        entry.size, entry.mtime, entry.mode = path.stat().st_size, int(path.stat().st_mtime), 0o644
        yield entry.tobuf(tarfile.PAX_FORMAT)
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
        yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def unpack(archive: Path, folder: Path) -> Path:
    """The top folder of an archive as a new `folder`, after the sums that it carries have been checked.

    Only regular files without holes below one top folder are taken, and no more bytes than the archive has.

    Raises:
        StorageError: anything else is in it, it is cut short, or its sums are wrong.
        OSError: the folder cannot be written.
    """
    from proxytune.models.errors import ExportError
    from proxytune.models.exported import changed_files

    folder.mkdir()
    try:
        with tarfile.open(archive, "r:") as tar_file:
            for count, entry in enumerate(tar_file, start=1):
                path = PurePosixPath(entry.name)
                inner = path.parts[1:]
                if (
                    not entry.isreg()
                    or entry.issparse()  # its holes are not in the archive, and would be on disk
                    or "\0" in entry.name
                    or path.is_absolute()
                    or not inner
                    or ".." in path.parts
                    or count > MAX_FILES
                ):
                    raise StorageError(f"the archive holds {entry.name!r}, which no export has")
                target = folder.joinpath(*inner)
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar_file.extractfile(entry)
                assert source is not None
                with target.open("xb") as file:
                    shutil.copyfileobj(source, file, PIECE)
        problems = changed_files(folder)
    except (
        tarfile.TarError,
        ExportError,
        FileExistsError,
        NotADirectoryError,
        EOFError,
        ValueError,
    ) as error:
        raise StorageError(f"what the server sent is no export: {error}") from None
    if problems:
        raise StorageError(f"what the server sent is damaged: {problems[0]}")
    return folder
