"""SIGKILL of the driver and of its shipper at random points: MLflow and the journal contain the same in the end."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [pytest.param(25, marks=pytest.mark.e2e), 500])
@pytest.mark.timeout(1200)
def test_random_kills_lose_and_duplicate_nothing(
    storage: Path, store: Any, rounds: int, record_property: Any
) -> None:
    script = Path(__file__).with_name("crash_rounds.py")
    done = subprocess.run(
        [sys.executable, "-P", script, storage, str(rounds), "7"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    record_property("crashes", counts)
    assert counts["kills"] == rounds
    assert counts["kills during creations"] > rounds // 20, "too few kills during the creation of runs"
    assert store.differences(storage / "crash" / "outbox") == {}
    assert len(store.trials()) == counts["trials"] > 10
    assert store.parent().data.metrics["trials_open"] == 0
