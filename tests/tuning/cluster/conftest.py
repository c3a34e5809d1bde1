"""A real cluster of two nodes for a file's tests, and `proxytune` as its user runs it."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from proxytune.tuning.journal.reading import read_events

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


def _module(path: Path) -> ModuleType:
    if path.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[path.stem])
    return sys.modules[path.stem]


@pytest.fixture(scope="session")
def nodes() -> ModuleType:
    return _module(Path(__file__).with_name("nodes.py"))


@pytest.fixture(scope="session")
def servers() -> ModuleType:
    return _module(Path(__file__).parents[1] / "tracking" / "servers.py")


class Tool:
    """`proxytune` in a folder, with the environment of one user of one cluster."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        (folder / "small.yaml").write_text(STUDY)

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-P", "-m", "proxytune.tuning", *map(str, arguments)]

    def run(self, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
            env=os.environ | self.environment | environment,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def start(self, log: Path, *arguments: object, **environment: str) -> "subprocess.Popen[bytes]":
        with log.open("ab") as file:
            return subprocess.Popen(
                self.command(*arguments),
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
    """Poll a condition; fails when its time is over."""
    return wait_for


@pytest.fixture(scope="module")
def cluster(nodes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head and a worker, each with a cache of prepared data of its own."""
    caches = tmp_path_factory.mktemp("caches")
    running = nodes.RayCluster(environment={"PROXYTUNE_CACHE": str(caches / "head")})
    try:
        running.caches = caches
        running.worker = running.add("worker", environment={"PROXYTUNE_CACHE": str(caches / "worker")})
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def tool(nodes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Tool:
    """The user's machine: another cache, the token in a file."""
    folder = tmp_path_factory.mktemp("laptop")
    (folder / "token").write_text(nodes.TOKEN)
    environment = {
        "PROXYTUNE_CACHE": str(folder / "cache"),
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_API_SERVER_ADDRESS": "",
        "OMP_NUM_THREADS": "1",
    }
    return Tool(folder, environment)
