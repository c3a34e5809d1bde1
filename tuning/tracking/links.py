"""Addresses of studies in the MLflow UI."""

import json
from pathlib import Path

from proxytune.tuning.tracking.acknowledgement import Acknowledgement
from proxytune.tuning.tracking.views import StudyTable, search_path, view_path


def study_table(known: Acknowledgement) -> StudyTable | None:
    """The content of a study's views in MLflow; None until MLflow has a run of the study."""
    search = known.study.get("spec", {}).get("search", {})
    if known.parent_run is None or not search.get("objectives"):
        return None
    return StudyTable(
        study=known.study["name"],
        journal=known.study["id"],
        parent_run=known.parent_run,
        objectives=search["objectives"],
        constraints=list(search.get("constraints") or ()),
        params=list(search.get("space") or ()),
    )


def leaderboard_path(outbox_folder: Path, uri: str) -> str | None:
    """Path of a study's leaderboard on the MLflow server; None until MLflow has a run of the study.

    A store in an SQLite file that was moved with its studies counts as the same store.
    """
    found: list[tuple[bool, float, Acknowledgement]] = []
    for path in outbox_folder.glob("acknowledged-*.json"):
        try:
            values = json.loads(path.read_text())
            known = Acknowledgement.load(outbox_folder, values["uri"], values["experiment"])
        except (OSError, ValueError, TypeError, KeyError):
            continue
        is_same = known.uri == uri
        is_moved = (
            uri.startswith("sqlite:")
            and known.uri.startswith("sqlite:")
            and Path(known.uri).name == Path(uri).name
        )
        if is_same or is_moved:
            found.append((is_same, path.stat().st_mtime, known))
    for _, _, known in sorted(found, key=lambda one: one[:2], reverse=True):
        table = study_table(known)
        if table is not None and known.experiment_id is not None:
            if known.has_views:
                return view_path(known.experiment_id, table.journal)
            return search_path(known.experiment_id, table)
    return None


def leaderboards(storage: Path, uri: str) -> dict[str, str]:
    """`leaderboard_path` of every study of a storage folder that has one, the most recently run first."""
    folders = sorted(storage.glob("*/outbox"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    paths = {folder.parent.name: leaderboard_path(folder, uri) for folder in folders}
    return {name: path for name, path in paths.items() if path is not None}
