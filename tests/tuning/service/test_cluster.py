"""A study over HTTP on a real Ray head: submit, kill the server with -9, export the winner, extend, stop, confirm."""

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from proxytune.models import load_exported
from proxytune.tuning import Client
from proxytune.tuning.errors import OtherSpecError, ProxytuneError
from proxytune.tuning.service import client as module
from tests.commandline import command
from tests.tuning.cluster.nodes import TOKEN as RAY_TOKEN
from tests.tuning.cluster.nodes import RayCluster, free_port

TOKEN = "alice-0123456789abcdef0123456789abcdef"
STUDY = {
    "name": "small",
    "task": {"name": "listops-mini", "train_examples": 256},
    "model": {"num_layers": 1, "embedding_dim": 16, "feedforward_dim": 16, "num_proxies": 4},
    "training": {"steps": 300, "warmup_steps": 30, "batch_size": 8, "learning_rate": 1e-3, "eval_every": 50},
    "search": {
        "space": {"model.num_proxies": {"choice": [2, 4, 8]}, "model.dropout": {"low": 0.0, "high": 0.3}},
        "stopping": {"name": "none"},
        "trials": 2,
    },
}


@pytest.fixture(scope="module")
def cluster(data_cache: Path) -> Iterator[RayCluster]:
    running = RayCluster(cpus=2, environment={"PROXYTUNE_CACHE": str(data_cache)})
    yield running
    running.close()


class Server:
    """`proxytune serve` in a process that can be killed and restarted."""

    def __init__(self, folder: Path, cluster: RayCluster, data_cache: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "tokens").touch(mode=0o600)
        (folder / "tokens").write_text(f"alice:{TOKEN}\n")
        self._command = [
            *command("serve", "--port", self.port, "--address", cluster.dashboard),
            *("--storage", str(folder / "studies"), "--token-file", str(folder / "tokens")),
        ]
        self._environment = {"RAY_AUTH_TOKEN": RAY_TOKEN, "PROXYTUNE_CACHE": str(data_cache)}
        self._log = folder / "server.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                env=os.environ | self._environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + 300
        while self._log.read_text().count("Ctrl-C to stop") <= self._starts:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        self._starts += 1

    _starts = 0

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # with all processes that it has started
        self._process.wait()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 900
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(1)


def wait_for_job(client: Client, *wanted: str, name: str = "small") -> None:
    wait_for(lambda: client.study(name)["job"] in wanted)


class Follower(threading.Thread):
    """Reads the study's events until its end."""

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.seen: list[dict] = []
        self.reported = threading.Event()

    def run(self) -> None:
        for event in self.client.events("small"):
            self.seen.append(event)
            if event["kind"] == "report":
                self.reported.set()


def submit_twice(client: Client) -> None:
    first = client.submit(STUDY)
    assert first == {"study": "small", "job": "proxytune-small-1", "created": True, "budget": 2}
    assert client.submit(STUDY) == first | {"created": False}
    with pytest.raises(OtherSpecError, match=r"training\.steps was 300, now 301"):
        client.submit(STUDY | {"training": STUDY["training"] | {"steps": 301}})


def kill_the_server_during_the_study(client: Client, server: Server) -> None:
    """The study continues without the server, and the client's event stream has every event once."""
    follower = Follower(client)
    follower.start()
    assert follower.reported.wait(900)
    server.kill()
    ends = [event["kind"] for event in follower.seen].count("end")
    with pytest.raises(ProxytuneError, match="refused"):
        client.studies()
    server.start()
    follower.join(900)
    assert not follower.is_alive()
    assert ends < 2  # the server was killed during the study
    counts = Counter((event["trial"], event["step"]) for event in follower.seen if event["kind"] == "report")
    assert counts == {(trial, step): 1 for trial in range(2) for step in range(50, 301, 50)}
    offsets = [event["offset"] for event in follower.seen]
    assert offsets == sorted(set(offsets))
    wait_for_job(client, "SUCCEEDED")
    shown = client.study("small")
    assert (shown["outcomes"], shown["driver"]) == ({"complete": 2}, None)


def export_the_winner(client: Client, place: Path) -> None:
    model = load_exported(client.export("small", place))
    assert model(torch.ones(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.bool)).shape == (1, 10)


def extend_stop_and_resume(client: Client) -> None:
    client.extend("small", 3)
    assert client.resume("small")["job"] == "proxytune-small-2"
    wait_for(lambda: client.study("small")["driver"] is not None)
    client.stop("small", now=True)
    wait_for_job(client, "STOPPED", "FAILED", "SUCCEEDED")
    assert client.study("small")["job"] in ("STOPPED", "FAILED")
    assert client.resume("small")["job"] == "proxytune-small-3"
    wait_for_job(client, "SUCCEEDED")
    assert client.study("small")["outcomes"] == {"complete": 3}
    who = [event["who"] for event in client.events("small", follow=False) if event["kind"] == "log"]
    assert set(who) <= {"alice@http"}


def confirm(client: Client, server: Server) -> None:
    with pytest.raises(ProxytuneError, match="has not been confirmed"):
        client.confirmation("small")
    assert client.confirm("small", top=1, seeds=2, trials=[0, 1, 2])["job"] == "proxytune-small.confirm-1"
    wait_for(lambda: "small.confirm" in [known["study"] for known in client.studies()])
    server.kill()
    server.start()
    wait_for_job(client, "SUCCEEDED", name="small.confirm")
    found = client.confirmation("small")
    confirmed = [candidate["trial"] for candidate in found["candidates"]]
    assert set(confirmed) == {0, 1, 2}
    assert (found["test"]["openings"], len(found["test"]["values"])) == (1, len(found["test"]["seeds"]))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_study_survives_kills_of_its_server_from_submit_to_confirm(
    cluster, tmp_path, data_cache, monkeypatch
) -> None:
    monkeypatch.setattr(module, "RECONNECT_SECONDS", (1.0,) * 300)
    server = Server(tmp_path, cluster, data_cache)
    client = Client(server.url, token=TOKEN)
    try:
        submit_twice(client)
        kill_the_server_during_the_study(client, server)
        export_the_winner(client, tmp_path / "winner")
        extend_stop_and_resume(client)
        confirm(client, server)
    finally:
        client.close()
        server.kill()
