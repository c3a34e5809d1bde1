"""Wrong cluster addresses are rejected with a one-line error before anything is written."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxytune.tuning.cluster.jobs import Jobs, user_token
from proxytune.tuning.cluster.session import find_cluster
from proxytune.tuning.errors import InputError
from tests.commandline import CommandResult
from tests.tuning.cluster.conftest import STUDY


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class FixedResponse(http.server.BaseHTTPRequestHandler):
    """Responds to every GET with `text` and records the requests."""

    text = b"hello"
    requests: list[str] = []

    def do_GET(self) -> None:
        self.requests.append(f"{self.path} {self.headers.get('Authorization')}")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.text)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.mark.parametrize(
    ("connect", "address", "words"),
    [
        (find_cluster, "127.0.0.1:9", ["no Ray cluster at", ":9", "ray start --head"]),
        (find_cluster, "OTHER", ["no Ray cluster at"]),
        (find_cluster, "nosuchhost.invalid:6379", ["nosuchhost.invalid"]),
        (find_cluster, "ray://127.0.0.1:10001", ["ray://", "proxytune submit"]),
        (find_cluster, "http://127.0.0.1:8265", ["submit STUDY --address http://127.0.0.1:8265"]),
        (find_cluster, "head", ["'head'", "HOST:PORT"]),
        (Jobs, "http://127.0.0.1:9", ["no response from http://127.0.0.1:9"]),
        (Jobs, "http://OTHER", ["is not the dashboard of Ray"]),
        (Jobs, "127.0.0.1:8265", ["http://HEAD:8265"]),
        (Jobs, "ray://127.0.0.1:10001", ["http://HEAD:8265"]),
    ],
)
def test_wrong_address_raises_a_one_line_error(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[[str], object], address: str, words: list[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token")
    with serving(FixedResponse) as other, pytest.raises(InputError) as caught:
        connect(address.replace("OTHER", other))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_cluster_without_authentication_is_rejected_before_the_token_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unauthenticated(FixedResponse):
        text = b'{"authentication_mode": "disabled"}'
        requests: list[str] = []

    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary")
    with serving(Unauthenticated) as address, pytest.raises(InputError, match="RAY_AUTH_MODE=token"):
        Jobs(f"http://{address}")
    assert Unauthenticated.requests == ["/api/authentication_mode None"]


def test_run_with_a_wrong_address_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., CommandResult], tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token")
    (tmp_path / "small.yaml").write_text(STUDY)
    done = call("run", "small.yaml", "--address", "127.0.0.1:9", cwd=tmp_path)
    assert done.code == 2
    assert len([line for line in done.stderr.splitlines() if line.strip()]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_ray_version_mismatch_error_names_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    class OlderRay(FixedResponse):
        text = b'{"authentication_mode": "token", "ray_version": "2.40.0", "version": "4"}'
        requests: list[str] = []

    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token")
    with serving(OlderRay) as address, pytest.raises(InputError, match=r"has Ray 2\.40\.0, this machine 2\."):
        Jobs(f"http://{address}")
    assert "/api/version Bearer a-token" in OlderRay.requests


def test_unreadable_token_file_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(InputError, match="RAY_AUTH_TOKEN_PATH: /nowhere/token cannot be read"):
        user_token()
