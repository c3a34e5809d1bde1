"""A folder as a tar stream, file by file in pieces: nothing of it is held in memory, and it says nothing of this machine."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

PIECE = 1 << 20
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
