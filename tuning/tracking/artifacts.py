"""Artifact locations of an MLflow store in an SQLite file, after its folder was copied or moved.

MLflow stores the absolute location of every run's artifacts. A copy of the folder would therefore write into the
original, and a moved folder would be created again at its old path. MLflow has no API that changes a location, so this
module writes to its tables. No other module depends on them, and a test compares them with the installed MLflow.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from proxytune.tuning.spec.locations import artifact_root

_PREFIX = "sqlite:///"
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def follow_move(uri: str) -> list[str]:
    """Set every artifact location of the store to the folder beside its SQLite file.

    Stores of other kinds, and locations whose folder has another name, are not changed.

    Args:
        uri: the MLflow store.

    Returns:
        The previous folders of the changed locations.

    Raises:
        sqlite3.Error: the file cannot be written.
    """
    path = Path(uri.removeprefix(_PREFIX))
    if not uri.startswith(_PREFIX) or not path.exists():
        return []
    here = str(artifact_root(uri, path.parent))
    with closing(sqlite3.connect(path, timeout=60)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return []
        known = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        moved = [
            place for (place,) in known if place and place != here and Path(place).name == Path(here).name
        ]
        with database:
            for place in moved:
                for table, column in _LOCATIONS:
                    database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (here, len(place) + 1, place, len(place) + 1, f"{place}/"),
                    )
    return moved
