"""Hostile and broken clients on real sockets: whatever they send or omit, other clients get responses."""

import itertools
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise

import httpx
import pytest

from proxytune.tuning.service import connections
from tests.tuning.service.conftest import TOKEN, Driver

GOOD = {"Authorization": f"Bearer {TOKEN}"}
HEAD = b"GET /v1/studies HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    """Closes the sockets of `connect` at the end of the test."""
    with ExitStack() as stack:
        yield stack


def connect(url: str, sockets: ExitStack, source: str = "127.0.0.1") -> socket.socket:
    address = httpx.URL(url)
    return sockets.enter_context(
        socket.create_connection((address.host, address.port), timeout=300, source_address=(source, 0))
    )


def is_closed(connection: socket.socket, seconds: float) -> bool:
    """Whether the server closes the connection within this time; data that it sends before are discarded."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.fixture
def flood(sockets: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Opens more connections than the server admits, from one address or from several, and sends the bytes on each."""
    monkeypatch.setattr(connections, "TOTAL", 30)
    monkeypatch.setattr(connections, "PER_ADDRESS", 20)

    def connect_all(url: str, sources: Sequence[str], sent: bytes) -> None:
        for source in itertools.islice(itertools.cycle(sources), 2 * connections.TOTAL):
            connect(url, sockets, source).sendall(sent)

    return connect_all


@pytest.mark.parametrize("sent", [b"", HEAD], ids=["silent", "partial head"])
@pytest.mark.parametrize("num_addresses", [1, 5])
def test_idle_connections_do_not_block_other_clients(
    serve, finished, tokens, flood, num_addresses, sent
) -> None:
    url = serve(tokens=tokens)
    with httpx.Client(base_url=url, headers=GOOD, timeout=300) as client:
        assert client.get("/v1/studies").status_code == 200
        flood(url, [f"127.0.0.{number + 1}" for number in range(num_addresses)], sent)
        assert httpx.get(f"{url}/health", timeout=300).status_code == 200
        assert httpx.get(f"{url}/v1/studies", headers=GOOD, timeout=300).status_code == 200


def test_event_stream_survives_a_flood_of_connections(serve, spec, tokens, flood) -> None:
    driver = Driver(spec)
    url = serve(tokens=tokens)
    with httpx.stream("GET", f"{url}/v1/studies/small/events", headers=GOOD, timeout=300) as stream:
        lines = stream.iter_lines()
        assert next(lines)
        flood(url, ["127.0.0.1"], b"")
        driver.trial(30, "complete", val_accuracy=0.5)
        driver.end()
        assert "event: study_end" in list(lines)


def test_address_over_its_limit_loses_its_oldest_connections(serve, finished, sockets, monkeypatch) -> None:
    monkeypatch.setattr(connections, "PER_ADDRESS", 4)
    url = serve()
    other = connect(url, sockets, "127.0.0.3")
    *oldest, a, b, c, d = (connect(url, sockets, "127.0.0.2") for _ in range(6))
    assert [is_closed(connection, 300) for connection in oldest] == [True] * 2
    for connection in (a, b, c, d, other):
        connection.sendall(HEAD + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_connection_without_a_complete_request_in_time_is_closed(
    serve, finished, tokens, sockets, monkeypatch
) -> None:
    """Silence, a slow head, a slow head after a response, a slow body after a rejection, and unread responses."""
    monkeypatch.setattr(connections, "IDLE_SECONDS", 1.0)
    url = serve(tokens=tokens)
    silent, slow, again, rejected, unread = (connect(url, sockets) for _ in range(5))
    again.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert again.recv(1000).startswith(b"HTTP/1.1 200")
    rejected.sendall(b"POST /v1/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n")
    assert rejected.recv(1000).startswith(b"HTTP/1.1 401")
    sending = {slow: 1, again: 1, rejected: 1, unread: 10_000}  # bytes at a time
    for connection in sending:
        connection.settimeout(0.05)
    many = (HEAD + b"\r\n") * 1000
    deadline = time.monotonic() + 300
    while sending and time.monotonic() < deadline:
        for connection, size in list(sending.items()):
            try:
                connection.sendall(many[:size])
                if size == 1 and not connection.recv(65536):
                    del sending[connection]
            except TimeoutError:
                continue
            except ConnectionError:
                del sending[connection]
    assert not sending
    assert is_closed(silent, 60)


def test_slow_body_with_a_valid_token_has_its_own_timeout(
    serve, finished, tokens, sockets, monkeypatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.5)
    connection = connect(serve(tokens=tokens), sockets)
    connection.sendall(
        b"POST /v1/studies/small/extend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + f"Authorization: Bearer {TOKEN}\r\nContent-Length: 13\r\n\r\n".encode()
    )
    time.sleep(1.5)
    connection.sendall(b'{"trials": 9}')
    assert connection.recv(1000).startswith(b"HTTP/1.1 202")


def test_probes_respond_while_all_workers_wait_for_a_database(serve, finished) -> None:
    url = serve()
    statuses: list[int] = []
    with (
        sqlite3.connect(finished.folder / "study.db", isolation_level=None) as database,
        httpx.Client(timeout=300) as http,
    ):
        database.execute("BEGIN EXCLUSIVE")

        def pause() -> None:
            statuses.append(http.post(f"{url}/v1/studies/small/pause").status_code)

        threads = [threading.Thread(target=pause) for _ in range(45)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        assert httpx.get(f"{url}/health", timeout=300).status_code == 200
        assert httpx.get(f"{url}/ready", timeout=300).status_code == 200
        assert statuses == [], "the requests wait for the database"
        database.execute("ROLLBACK")
        for thread in threads:
            thread.join()
    database.close()
    assert statuses == [202] * 45


def test_probes_are_not_rate_limited(serve, finished, tokens) -> None:
    with httpx.Client(base_url=serve(tokens=tokens, requests_per_minute=20), timeout=300) as http:
        assert [http.get("/v1/studies").status_code for _ in range(25)] == [401] * 20 + [429] * 5
        assert {http.get(path).status_code for path in ("/health", "/ready") * 30} == {200}


def test_readiness_checks_the_storage_at_most_once_per_second(serve, finished, monkeypatch) -> None:
    checks: list[float] = []
    from proxytune.tuning.service.studies import Studies

    names = Studies.names
    monkeypatch.setattr(Studies, "names", lambda self: checks.append(time.monotonic()) or names(self))
    with httpx.Client(base_url=serve(), timeout=300) as http:
        assert {http.get("/ready").status_code for _ in range(100)} == {200}
    assert all(later - earlier > 0.9 for earlier, later in pairwise(checks))


@pytest.mark.parametrize("order", [1, -1])
def test_request_with_two_lengths_is_rejected_and_disconnected(http, sockets, order) -> None:
    """Request smuggling: a proxy and this server must not disagree about the end of the body."""
    both = [b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n"][::order]
    body = b"0\r\n\r\n"
    smuggled = HEAD + b"\r\n"
    connection = connect(str(http.base_url), sockets)
    connection.sendall(
        b"POST /v1/studies HTTP/1.1\r\nHost: localhost\r\n" + b"".join(both) + b"\r\n" + body + smuggled
    )
    response = b""
    while piece := connection.recv(65536):
        response += piece
    assert response.startswith(b"HTTP/1.1 400")
    assert b"connection: close" in response.lower()
    assert response.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("enqueue", {"params": {"model.num_proxies": "\ud800"}}),
        ("enqueue", {"params": {"\ud800": 4}}),
        ("extend", {"trials": "\udfff"}),
        ("extend", {"trials": 9, "\ud800": 1}),
    ],
)
def test_lone_surrogate_in_a_request_is_rejected(http, path, body) -> None:
    response = http.post(
        f"/v1/studies/small/{path}",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 422
    assert response.json()["error"] == "InputError"


def test_lone_surrogate_in_a_study_is_rejected(http, finished) -> None:
    values = finished.model_dump(mode="json") | {"name": "\ud800"}
    response = http.post(
        "/v1/studies", content=json.dumps(values), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 422
