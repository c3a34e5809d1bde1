"""Models place all tensors on their device (device_placement_program.py)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from proxytune.models.config import CONTRASTS, INJECTIONS
from tests.models.device_placement_program import CASES


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-P", Path(__file__).with_name("device_placement_program.py")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr  # the exit code is ignored: PyTorch cannot shut down the simulated device
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", CASES)
def test_training_step_stays_on_its_device(outcomes: dict[str, str], case: str) -> None:
    assert outcomes[case] == "trained"


def test_cases_include_every_contrast_and_injection() -> None:
    for option, values in (("contrastive", CONTRASTS), ("injection", INJECTIONS)):
        assert set(values) <= {changes.get(option) for changes in CASES.values()}


def test_device_mismatch_and_value_read_are_detected(outcomes: dict[str, str]) -> None:
    assert "device" in outcomes["tensor on the CPU"]
    assert outcomes["value read back"].startswith("DataDependentOutputException")
