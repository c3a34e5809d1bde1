"""Find and read a study file by its path or by the name of a shipped study."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.spec.yaml_file import nearest, override, read_yaml
from proxytune.tuning.studies import shipped_studies


def find_study_file(name_or_path: str) -> Path | None:
    """The file of a path or of a shipped study's name; None if neither exists. Folders are not considered."""
    path = Path(name_or_path)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path
    return shipped_studies().get(name_or_path)


def unknown_study(name_or_path: str, storage: str | None = None) -> InputError:
    """The error for a name that is neither a file, nor a shipped study, nor (if given) a study in `storage`."""
    stored = "" if storage is None else f", no study in {storage}"
    return InputError(
        f"{name_or_path}: no such file{stored}, and no shipped study of that name; "
        f"{nearest(name_or_path, shipped_studies())}"
    )


def read_study(name_or_path: str, assignments: Iterable[str] = ()) -> StudySpec:
    """Read a study from a file or from a shipped study's name, with `key=value` overrides.

    Raises:
        InputError: one line per problem, each with its key path.
    """
    path = find_study_file(name_or_path)
    if path is None:
        raise unknown_study(name_or_path)
    values: dict[str, Any] = override(read_yaml(path), assignments)
    return parse_study(values, where=str(path))
