"""kill -9 of the driver and of its shipper, at random points: MLflow ends up with exactly the journal."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [pytest.param(25, marks=pytest.mark.e2e), 500])
@pytest.mark.timeout(1200)
def test_kills_lose_and_double_nothing(storage: Path, store: Any, rounds: int, record_property: Any) -> None:
    script = Path(__file__).with_name("crash_rounds.py")
    done = subprocess.run(
        [sys.executable, "-P", script, storage, str(rounds), "7"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    record_property("crashes", seen)
    assert seen["kills"] == rounds
    assert seen["kills during creations"] > rounds // 20, "the kills must hit the delicate moments"
    assert store.differences(storage / "crash" / "outbox") == {}
    assert len(store.trials()) == seen["trials"] > 10
    assert store.parent().data.metrics["trials_open"] == 0
