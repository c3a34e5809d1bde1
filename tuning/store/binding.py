"""Checks that a study's database and its folders belong together."""

import os
from pathlib import Path

from proxytune.tuning.errors import InputError, StorageError, one_line
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.study import trials_folder

ID_FILE = "study-id"
PARTS = ("study.db", ID_FILE, "outbox", "trials", "efficiency")


def make_folder(folder: Path) -> None:
    """Create the study's folder, readable only by this user, if it does not exist.

    Raises:
        InputError: the folder or a part of it is a symbolic link, which may lead to another study.
        StorageError: the folder cannot be created.
    """
    for path in (folder, *(folder / part for part in PARTS)):
        if path.is_symlink():
            raise InputError(f"{path} is a symbolic link; a study's folder must not contain symbolic links")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror} (as user {os.getuid()})") from None


def check_binding(spec: StudySpec, study_id: str | None, num_trials: int) -> None:
    """Check that the database and the folders belong together. Nothing is written.

    Args:
        study_id: the study's id in the database; None: the database has no study of this name.
        num_trials: number of its trials in the database.

    Raises:
        InputError: they do not belong together. The message says what to do.
        StorageError: a folder cannot be read.
    """
    folder, trials = spec.folder, trials_folder(spec)
    try:
        path = folder / ID_FILE
        known = path.read_text(encoding="ascii").strip() if path.exists() else None
        numbers = sorted(int(name) for name in trials.folders() if name.isdecimal())
    except (OSError, ValueError) as error:
        raise StorageError(f"{folder}: {one_line(error)}") from None
    advice = "restore the matching database, or move the folder away"
    if known is not None and known != study_id:
        theirs = "has no such study" if study_id is None else f"has study {study_id[:12]} of this name"
        raise InputError(f"{folder} belongs to study {known[:12]}, but the database {theirs}: {advice}")
    lost = [number for number in numbers if number >= num_trials]
    if lost:
        raise InputError(
            f"{trials} has checkpoints of trial {lost[0]}, which is not in the database: {advice}"
        )


def bind_folder(folder: Path, study_id: str) -> None:
    """Write the study's id into its folder.

    Raises:
        StorageError: the file cannot be written.
    """
    path = folder / ID_FILE
    if path.exists():
        return
    temporary = path.with_name(f".{ID_FILE}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(study_id)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from None
