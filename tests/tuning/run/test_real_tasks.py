"""The shipped studies of real tasks, shortened: ListOps as published, and IMDB."""

import json
import os
from pathlib import Path

import pytest

from tests.commandline import proxytune

SHORT = [
    "training.steps=20",
    "training.warmup_steps=4",
    "training.eval_every=10",
    "search.trials=2",
    "training.batch_size=8",
]


def shortened(*more: str) -> list[str]:
    return [
        argument
        for assignment in (*SHORT, "search.stopping.name=none", *more)
        for argument in ("--set", assignment)
    ]


@pytest.mark.slow
def test_listops_study(tmp_path: Path) -> None:
    done = proxytune("run", "listops", "--json", *shortened("task.train_examples=512"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcomes"] == {"complete": 2}


@pytest.mark.slow
@pytest.mark.realdata
def test_text_study(tmp_path: Path) -> None:
    root = Path(os.environ.get("LRA_ROOT", Path(__file__).parents[4] / "shared" / "data"))
    archive = root / "aclImdb_v1.tar.gz"
    if not archive.exists():
        pytest.skip(f"no {archive}; set LRA_ROOT")
    done = proxytune(
        "run", "text", "--json", *shortened(f"task.root={archive}", "task.train_examples=512"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcomes"] == {"complete": 2}
