"""The rungs that the journal's counters derive from the study file, compared with those of the search."""

import pytest

from proxytune.tuning.journal.counters import rung_steps
from proxytune.tuning.spec.study_files import read_study


@pytest.mark.parametrize("name", ["none", "asha", "hyperband", "median", "curve"])
@pytest.mark.parametrize("min_steps", ["null", "400"])
@pytest.mark.parametrize("reduction_factor", [2, 3])
def test_rung_steps_match_those_of_the_search(name: str, min_steps: str, reduction_factor: int) -> None:
    spec = read_study(
        "listops-mini",
        [
            f"search.stopping.name={name}",
            f"search.stopping.min_steps={min_steps}",
            f"search.stopping.reduction_factor={reduction_factor}",
        ],
    )
    assert rung_steps(spec.model_dump(mode="json")) == list(spec.rung_steps())
    assert bool(spec.rung_steps()) == (name != "none")
