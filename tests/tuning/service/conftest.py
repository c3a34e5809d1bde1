"""A study that ran without Ray, and real servers for it: uvicorn on free loopback ports."""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxytune.tuning.journal.events import Noted, StudyEnded, StudyStarted
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.service.auth import Tokens
from proxytune.tuning.service.server import bind, make_server
from proxytune.tuning.service.settings import Settings
from proxytune.tuning.spec.outcome import StudyStatus
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.trial.trial_run import TrialRun
from proxytune.tuning.trial.update import TrialUpdate

TOKEN = "alice-0123456789abcdef0123456789abcdef"


class Driver:
    """Drives a study through its controller, without Ray."""

    def __init__(self, spec: StudySpec) -> None:
        self.study = begin_study(spec)
        self.outbox = Outbox(spec.folder / "outbox")
        self.controller = StudyController(spec, self.study.optuna, self.study.storage, self.outbox)
        self.controller.reconcile()
        self.outbox.append(StudyStarted(time_ms=1, study=spec.name, spec=spec.model_dump(mode="json")))

    def trial(self, step: int, outcome: str, **metrics: float) -> int:
        assignment = self.controller.next_trial()
        assert assignment is not None
        shown = {"val_loss": 1.0, "train_memory_mib_per_sequence": 2.0} | metrics
        self.controller.receive(
            assignment.number, TrialUpdate(step=step, metrics=shown if metrics else None, outcome=outcome), {}
        )
        return assignment.number

    def train(self) -> int:
        """Train one trial in this process."""
        assignment = self.controller.next_trial()
        assert assignment is not None
        run = TrialRun(assignment.spec, assignment.checkpoints)
        while not self.controller.receive(assignment.number, run.advance(), {}):
            pass
        run.save()
        return assignment.number

    def end(self) -> None:
        self.outbox.append(StudyEnded(time_ms=2, status=StudyStatus.FINISHED))
        self.outbox.close()
        self.study.storage.engine.dispose()

    def poll(self) -> None:
        """Read pending requests now instead of at the next poll of the controller."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
            self.controller.poll()

    def noted(self) -> list[str]:
        """The texts of the journal's notes so far."""
        events = read_events(self.study.folder / "outbox").events
        return [event.text for event in events if isinstance(event, Noted)]


@pytest.fixture
def spec(make_spec: Callable[..., StudySpec]) -> StudySpec:
    return make_spec("search.stopping.name=none")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which `finished` keeps its study after the first use."""
    return tmp_path_factory.mktemp("built") / "small"


@pytest.fixture
def finished(spec: StudySpec, built: Path) -> StudySpec:
    """Two complete trials, one diverged with a NaN, one failed without a report."""
    if not built.exists():
        driver = Driver(spec)
        driver.trial(30, "complete", val_accuracy=0.5)
        driver.trial(30, "complete", val_accuracy=0.7, train_memory_mib_per_sequence=8.0)
        driver.trial(20, "diverged", val_accuracy=0.1, val_loss=float("nan"))
        driver.trial(0, "failed")
        driver.end()
        spec.folder.rename(built)
    shutil.copytree(built, spec.folder)
    return spec


class Servers:
    """Real servers for one folder of studies, each on a free port, stopped together."""

    def __init__(self, storage: Path) -> None:
        self._settings = Settings(storage=storage, requests_per_minute=10_000)
        self._running: list[tuple[Any, threading.Thread, socket.socket]] = []

    def start(self, port: int = 0, **given: Any) -> str:
        """Start a server with these settings and return its address."""
        settings = replace(self._settings, **given)
        listener = bind(settings.host, port)
        server = make_server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        self._running.append((server, thread, listener))
        deadline = time.monotonic() + 300
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return f"http://{settings.host}:{listener.getsockname()[1]}"

    def stop(self) -> None:
        for server, thread, listener in self._running:
            server.handle_exit(2, None)
            thread.join(300)
            listener.close()
            assert not thread.is_alive()
        self._running.clear()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    running = Servers(tmp_path / "studies")
    yield running
    running.stop()


@pytest.fixture
def serve(servers: Servers) -> Callable[..., str]:
    """Starts a server for the test's studies with settings as keywords and returns its address."""
    return servers.start


@pytest.fixture
def http(serve: Callable[..., str], finished: StudySpec) -> Iterator[httpx.Client]:
    """A client of a server with the finished study."""
    with httpx.Client(base_url=serve(), timeout=300) as client:
        yield client


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"alice:{TOKEN}\nbob:bob-{'0' * 40}\n")
    return path


@pytest.fixture
def tokens(token_file: Path) -> Tokens:
    return Tokens(token_file)
