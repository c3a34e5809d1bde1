"""Check that a stored study may resume with a spec, which may differ in the budget and in keys that affect no result."""

import json
from typing import Any

from proxytune.tuning.errors import OtherSpecError
from proxytune.tuning.spec.study_spec import StudySpec

MAY_DIFFER = {"resources", "tracking", "storage", "database"}
"""Sections that may change on resume, since no result depends on them."""


def check_same(known: StudySpec, wanted: StudySpec) -> None:
    """Refuse to resume a stored study with a spec that would make its results incomparable.

    Raises:
        OtherSpecError: the specs differ. The message lists the first three differences.
    """
    stored, new = (json.loads(spec.model_dump_json()) for spec in (known, wanted))
    for spec in (stored, new):
        # The data may be moved; the fingerprint detects changes.
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
