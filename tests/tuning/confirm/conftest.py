"""The spec of a small study, and the study after its search."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.study import Study
from tests.tuning.confirm.synthetic import searched, small_spec


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., StudySpec]:
    """Factory of the spec of a small study, with changes of its `search` section."""
    return functools.partial(small_spec, tmp_path / "studies")


@pytest.fixture
def study(make: Callable[..., StudySpec]) -> Study:
    return searched(make(), [0.30, 0.31, 0.32, 0.33, 0.34, 0.10])
