"""A real two-node cluster for the tests of a file, and the `proxytune` command of its user."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxytune.tuning.journal.reading import read_events
from tests.commandline import command, proxytune
from tests.tuning.cluster.nodes import TOKEN, RayCluster

STUDY = """
name: small
task: {name: listops-mini, train_examples: 256}
model: {num_layers: 1, embedding_dim: 16, feedforward_dim: 16, num_proxies: 4}
training: {steps: 40, warmup_steps: 4, batch_size: 8, learning_rate: 1e-3, eval_every: 20}
search:
  space:
    model.num_proxies: {choice: [2, 4, 8]}
    model.dropout: {low: 0.0, high: 0.3}
  stopping: {name: none}
  trials: 4
"""


class Tool:
    """Runs `proxytune` in a folder with the environment of a user of the cluster."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        (folder / "small.yaml").write_text(STUDY)

    def run(self, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        return proxytune(*arguments, cwd=self.folder, timeout=1200, **self.environment | environment)

    def start(self, log: Path, *arguments: object, **environment: str) -> "subprocess.Popen[bytes]":
        with log.open("ab") as file:
            return subprocess.Popen(
                command(*arguments),
                cwd=self.folder,
                stdout=file,
                stderr=file,
                env=os.environ | self.environment | environment,
                start_new_session=True,
            )

    def json(self, *arguments: object) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def events(self, study: str, kind: str) -> list[dict[str, Any]]:
        folder = self.folder / "studies" / study / "outbox"
        return (
            [event for event in read_events(folder).events if event.kind == kind] if folder.exists() else []
        )


def wait_for(condition: Callable[[], Any], seconds: float = 600) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return value


@pytest.fixture
def until() -> Callable[..., Any]:
    """Poll a condition until it is true and return its value; fail after a time limit."""
    return wait_for


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head and a worker, each with its own cache of prepared data."""
    caches = tmp_path_factory.mktemp("caches")
    running = RayCluster(environment={"PROXYTUNE_CACHE": str(caches / "head")})
    try:
        running.caches = caches
        running.worker = running.add("worker", environment={"PROXYTUNE_CACHE": str(caches / "worker")})
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Tool:
    """The user's machine, with a third cache and the token in a file."""
    folder = tmp_path_factory.mktemp("laptop")
    (folder / "token").write_text(TOKEN)
    environment = {
        "PROXYTUNE_CACHE": str(folder / "cache"),
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_API_SERVER_ADDRESS": "",
        "OMP_NUM_THREADS": "1",
    }
    return Tool(folder, environment)
