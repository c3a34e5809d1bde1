"""SHA256SUMS over every file of an export folder, in the format of `sha256sum -c`."""

from pathlib import Path

from proxytune.models.exported import SUMS, file_sha256


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every file below the folder, after all other files.

    Raises:
        OSError: the folder cannot be read or written.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in names if name != SUMS]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
