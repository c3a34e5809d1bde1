"""Models run on a device that is not the CPU (another_device.py)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.another_device import KINDS


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-P", Path(__file__).with_name("another_device.py")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr  # its end is not looked at: the device has no clean one
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_stays_on_its_device(outcomes: dict[str, str], kind: str) -> None:
    assert outcomes[kind] == "trained"


def test_a_careless_model_does_not_pass(outcomes: dict[str, str]) -> None:
    assert "device" in outcomes["a tensor left behind"]
    assert outcomes["a value looked at"].startswith("DataDependentOutputException")
