"""Records of all openings of the test split, in the study's storage."""

from typing import Any

from proxytune.tuning.store.stored_study import StoredStudy

OPENINGS = "test_openings"  # user attribute of the study: [{"at", "by", "subject", "result"}], oldest first


def read_openings(study: StoredStudy) -> list[dict[str, Any]]:
    """Every opening of the test split for this study, oldest first: at, by, subject (which models), result or None."""
    return list(study.attributes.get(OPENINGS, []))
