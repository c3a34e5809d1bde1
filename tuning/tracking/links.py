"""Addresses of a study in MLflow's pages."""

from pathlib import Path

from proxytune.tuning.spec.locations import check_uri
from proxytune.tuning.tracking.acknowledgement import Acknowledgement
from proxytune.tuning.tracking.views import StudyTable, search_path, view_path


def study_table(known: Acknowledgement) -> StudyTable | None:
    """What MLflow's pages show of a study; None while MLflow has no run of it."""
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


def leaderboard_path(outbox_folder: Path, uri: str, experiment: str) -> str | None:
    """Address of the study's leaderboard below the MLflow server's own; None while MLflow has no run of the study."""
    known = Acknowledgement.load(outbox_folder, check_uri(uri), experiment)
    table = study_table(known)
    if table is None or known.experiment_id is None:
        return None
    if known.has_views:
        return view_path(known.experiment_id, table.journal)
    return search_path(known.experiment_id, table)
