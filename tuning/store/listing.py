"""The studies of a storage, a row each."""

from pathlib import Path
from typing import Any

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.trial_spec import NAME
from proxytune.tuning.store.database import holds_studies, open_storage
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.lease import driver_of
from proxytune.tuning.store.study import SPEC, Study, open_study, study_in
from proxytune.tuning.store.summary import summary

_UNENDED = ("running", "queued", "interrupted", "paused")


def list_studies(storage: Path, database: str | None) -> list[dict[str, Any]]:
    """Of each study: its name, task, state, trials ended, budget, and the best value of its first objective.

    The state is paused, running, finished (its budget is met), interrupted, or unreadable with the reason.

    Raises:
        StorageError: the database does not answer.
    """
    if database is not None:
        if not holds_studies(database):
            return []
        opened = open_storage(database, create=False)
        with storage_errors():
            known = opened.get_all_studies()
        names = sorted(study.study_name for study in known if SPEC in study.user_attrs)
        return [study_row(study_in(opened, name, storage, database)) for name in names]
    rows = []
    for path in sorted(storage.glob("*/study.db")):
        name = path.parent.name
        if NAME.fullmatch(name):
            try:
                rows.append(study_row(open_study(name, storage)))
            except InputError as error:  # one study that cannot be read hides no other
                unknown = {
                    "task": "-",
                    "state": f"unreadable: {error}",
                    "ended": 0,
                    "budget": 0,
                    "best": None,
                }
                rows.append({"study": name} | unknown)
    return rows


def study_row(study: Study) -> dict[str, Any]:
    """A study's row; see `list_studies`."""
    facts = summary(study)
    ended = sum(count for outcome, count in facts["outcomes"].items() if outcome not in _UNENDED)
    values = [next(iter(one["values"].values())) for one in facts["best"]]
    direction = next(iter(study.spec.search.objectives.values()))
    best = (max if direction == "maximize" else min)(values, default=None)
    return {
        "study": study.name,
        "task": study.spec.task.name,
        "state": _state(study, facts, ended),
        "ended": ended,
        "budget": facts["budget"],
        "best": best,
    }


def _state(study: Study, facts: dict[str, Any], ended: int) -> str:
    if driver_of(study.storage, study.name) is not None:
        return "paused" if facts.get("paused_by") else "running"
    return "finished" if ended >= facts["budget"] else "interrupted"
