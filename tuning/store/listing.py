"""The studies of a storage, one row per study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxytune.tuning.errors import ProxytuneError
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.trial_spec import NAME
from proxytune.tuning.store.stored_study import SPEC, StoredStudy, stored_spec
from proxytune.tuning.store.summary import is_finished, summary
from proxytune.tuning.store.table_study import TableStudy, read_study, read_tables


def list_studies(storage: Path, database: str | None) -> list[dict[str, Any]]:
    """For each study: name, task, state, number of ended trials, budget, and best value of its first objective.

    The state is paused, running, finished (by its budget or `stop_when`), interrupted, or unreadable with the reason.

    Raises:
        StorageError: the database does not respond.
    """
    if database is not None:
        return [study_row(study) for study in _in_database(storage, database)]
    rows = []
    for path in sorted(storage.glob("*/study.db")):
        name = path.parent.name
        if NAME.fullmatch(name):
            try:
                rows.append(study_row(read_study(name, storage)))
            except ProxytuneError as error:  # an unreadable study must not hide the others
                rows.append(unreadable_row(name, error))
    return rows


def unreadable_row(name: str, error: ProxytuneError) -> dict[str, Any]:
    """The row of a study that cannot be read."""
    return {
        "study": name,
        "task": "-",
        "state": f"unreadable: {error}",
        "ended": 0,
        "budget": 0,
        "best": None,
    }


def _in_database(storage: Path, database: str) -> Sequence[StoredStudy]:
    """The studies that proxytune created, by name. Falls back to Optuna if the tables cannot be read directly."""
    found = read_tables(database)
    if found is None:
        from proxytune.tuning.store.study import all_studies

        return all_studies(storage, database)
    return [
        TableStudy(stored_spec(tables.attributes, name, storage, database), tables)
        for name, tables in sorted(found.items())
        if SPEC in tables.attributes
    ]


def study_row(study: StoredStudy) -> dict[str, Any]:
    """A study's row; see `list_studies`."""
    facts = summary(study)
    ended = sum(count for outcome, count in facts["outcomes"].items() if Outcome(outcome).is_final)
    values = [next(iter(one["values"].values())) for one in facts["best"]]
    direction = next(iter(study.spec.search.objectives.values()))
    best = (max if direction == "maximize" else min)(values, default=None)
    return {
        "study": study.name,
        "task": study.spec.task.name,
        "state": _state(study, facts),
        "ended": ended,
        "budget": facts["budget"],
        "best": best,
    }


def _state(study: StoredStudy, facts: dict[str, Any]) -> str:
    if study.driver() is not None:
        return "paused" if facts.get("paused_by") else "running"
    return "finished" if is_finished(study) else "interrupted"
