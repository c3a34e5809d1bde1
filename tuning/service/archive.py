"""Stream a folder as a tar archive and unpack it: in bounded memory, without owner names, with checks against damage."""

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from proxytune.tuning.errors import StorageError

PIECE = 1 << 20
MAX_FILES = 10_000
MEDIA_TYPE = "application/x-tar"


def tar(folder: Path, name: str) -> Iterator[bytes]:
    """Yield a tar archive of the regular files below `folder`; its single top folder is `name`.

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
    """Unpack the top folder of an export's archive into a new `folder` and check its digests.

    Only regular, not sparse files below one top folder are accepted, so the result is no larger than the archive.

    Raises:
        StorageError: the archive has other entries, is truncated, or a digest is wrong.
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
                    or entry.issparse()  # its size on disk would not be bounded by the archive's
                    or "\0" in entry.name
                    or path.is_absolute()
                    or not inner
                    or ".." in path.parts
                    or count > MAX_FILES
                ):
                    raise StorageError(
                        f"the archive has an entry {entry.name!r}, which does not belong to an export"
                    )
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
        raise StorageError(f"the archive from the server is not an export: {error}") from None
    if problems:
        raise StorageError(f"the archive from the server is damaged: {problems[0]}")
    return folder
