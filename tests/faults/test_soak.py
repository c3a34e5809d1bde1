"""The soak test: its seed determines its schedule, and a short run finds no problem (`make soak` runs longer ones)."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.soak import schedule
from tests.faults.soak_faults import FAULTS


def test_seed_determines_kinds_pauses_and_random_choices() -> None:
    kinds = list(FAULTS)
    first, second = (list(itertools.islice(schedule(5, kinds), 3 * len(kinds))) for _ in range(2))
    drawn = [[(kind, pause, chance.random()) for kind, pause, chance in run] for run in (first, second)]
    assert drawn[0] == drawn[1]
    for start in range(0, len(first), len(kinds)):
        assert {kind for kind, _, _ in first[start : start + len(kinds)]} == FAULTS.keys()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_study_under_every_kind_of_fault_loses_and_duplicates_nothing(tmp_path: Path) -> None:
    script, results = Path(__file__).with_name("soak.py"), tmp_path / "soaks.jsonl"
    command = [
        sys.executable,
        "-P",
        script,
        "--seed",
        "0",
        "--rounds",
        "1",
        "--minutes",
        "45",
        "--record",
        results,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(results.read_text())
    assert result["problems"] == []
    assert result["injected"] == dict.fromkeys(FAULTS, 1)
