"""Whether a stored study may resume with a spec: it may differ in the budget and in keys that no result depends on."""

import json
from typing import Any

from proxytune.tuning.errors import OtherSpecError
from proxytune.tuning.spec.study_spec import StudySpec

MAY_DIFFER = {"resources", "tracking", "storage", "database"}
"""Sections that a resumed study may change, since no result depends on them."""


def check_same(known: StudySpec, wanted: StudySpec) -> None:
    """Refuse to resume a known study under a spec that would make the results incomparable.

    Raises:
        OtherSpecError: they differ, and where.
    """
    stored, new = (json.loads(spec.model_dump_json()) for spec in (known, wanted))
    for spec in (stored, new):
        # Data may move; their fingerprint shows whether they changed.
        spec["task"] = {
            key: value for key, value in spec["task"].items() if key not in ("root", "files", "partial")
        }
        for section in MAY_DIFFER:
            spec.pop(section, None)
    for search in (stored["search"], new["search"]):
        for budget in ("trials", "max_seconds", "max_steps", "stop_when", "enqueue"):
            search.pop(budget, None)  # a larger budget extends
    differences = _differences(stored, new)
    if differences:
        raise OtherSpecError(
            f"study {wanted.name} exists with another spec: {'; '.join(differences[:3])}"
            f"{f' (and {len(differences) - 3} more)' if len(differences) > 3 else ''}; "
            "give the study another name or set these back"
        )


def _differences(stored: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(stored, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(stored.keys() | new.keys())
            for line in _differences(stored.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if stored == new else [f"{path} was {stored}, now {new}"]
