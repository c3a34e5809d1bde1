"""The record of every opening of the test split, in the study's storage."""

from typing import Any

from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.study import Study

OPENINGS = "test_openings"  # user attribute of the study: [{"at", "by", "subject", "result"}], oldest first


def read_openings(study: Study) -> list[dict[str, Any]]:
    """Every opening of the test split for this study, oldest first: at, by, subject (which models), result or None."""
    with storage_errors():
        return list(study.optuna.user_attrs.get(OPENINGS, []))
