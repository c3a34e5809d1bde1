"""The soak: its schedule replays by its seed, and a short one loses and doubles nothing (`make soak` runs long ones)."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.soak import schedule
from tests.faults.soak_faults import FAULTS


def test_a_seed_determines_kinds_pauses_and_choices() -> None:
    kinds = list(FAULTS)
    first, again = (list(itertools.islice(schedule(5, kinds), 3 * len(kinds))) for _ in range(2))
    shown = [[(kind, pause, chance.random()) for kind, pause, chance in drawn] for drawn in (first, again)]
    assert shown[0] == shown[1]
    for start in range(0, len(first), len(kinds)):
        assert {kind for kind, _, _ in first[start : start + len(kinds)]} == FAULTS.keys()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_every_kind_of_fault_in_one_study_loses_and_doubles_nothing(tmp_path: Path) -> None:
    script, kept = Path(__file__).with_name("soak.py"), tmp_path / "soaks.jsonl"
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
        kept,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(kept.read_text())
    assert result["problems"] == []
    assert result["injected"] == dict.fromkeys(FAULTS, 1)
