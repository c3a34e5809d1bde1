"""A small study and a cache of prepared data that all tests share."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxytune.tuning.spec import StudySpec, parse_study
from proxytune.tuning.tracking.outbox import Event, Outbox
from proxytune.tuning.yaml_file import override


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(data_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PROXYTUNE_CACHE", str(data_cache))
    return


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., StudySpec]:
    """A study of seconds: tiny listops-mini, a model of one layer; `key=value` overrides."""

    def make(*assignments: str) -> StudySpec:
        values = {
            "name": "small",
            "task": {"name": "listops-mini", "train_examples": 256},
            "model": {"num_layers": 1, "embedding_dim": 16, "feedforward_dim": 16, "num_proxies": 4},
            "training": {
                "steps": 30,
                "warmup_steps": 3,
                "batch_size": 8,
                "learning_rate": 1e-3,
                "eval_every": 10,
            },
            "search": {
                "space": {
                    "model.num_proxies": {"choice": [2, 4, 8]},
                    "model.dropout": {"low": 0.0, "high": 0.3},
                },
                "trials": 4,
                "enqueue": [{"model.num_proxies": 4, "model.dropout": 0.1}],
            },
            "storage": str(tmp_path / "studies"),
        }
        return parse_study(override(values, assignments), "test")

    return make


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., Any]:
    """Runs `proxytune ARGUMENTS --json` in a folder, by default the test's, and gives what it printed."""

    def run(*arguments: str, folder: Path = tmp_path) -> Any:
        script = "from proxytune.tuning.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-P", "-c", script, *arguments, "--json"],
            cwd=folder, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def outbox_folder(tmp_path: Path) -> Path:
    """Of a study whose events a test makes up."""
    return tmp_path / "studies" / "study" / "outbox"


@pytest.fixture
def fill(outbox_folder: Path) -> Callable[[Iterable[Event]], None]:
    """Append events to the study's journal."""

    def append(events: Iterable[Event]) -> None:
        outbox = Outbox(outbox_folder)
        for event in events:
            outbox.append(event)
        outbox.close()

    return append
