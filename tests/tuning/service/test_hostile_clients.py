"""Strangers on real sockets: what they send, or do not send, keeps nobody else from an answer."""

import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise

import httpx
import pytest

from proxytune.tuning.service import connections
from tests.tuning.service.conftest import TOKEN

GOOD = {"Authorization": f"Bearer {TOKEN}"}
HEAD = b"GET /v1/studies HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def strangers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(url: str, strangers: ExitStack, source: str = "127.0.0.1") -> socket.socket:
    address = httpx.URL(url)
    return strangers.enter_context(
        socket.create_connection((address.host, address.port), timeout=300, source_address=(source, 0))
    )


def is_closed(connection: socket.socket, seconds: float) -> bool:
    """Whether the server ends the connection within this time; what it sends before is read."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.mark.parametrize("sent", [b"", HEAD], ids=["silent", "half a head"])
def test_idle_connections_of_strangers_take_no_place(serve, finished, tokens, strangers, sent) -> None:
    url = serve(tokens=tokens)
    with httpx.Client(base_url=url, headers=GOOD, timeout=300) as stays:
        assert stays.get("/v1/studies").status_code == 200
        for _ in range(connections.TOTAL + 50):
            connect(url, strangers).sendall(sent)
        assert httpx.get(f"{url}/health", timeout=300).status_code == 200
        assert httpx.get(f"{url}/v1/studies", headers=GOOD, timeout=300).status_code == 200


def test_an_event_stream_goes_on_while_strangers_connect(serve, spec, tokens, strangers) -> None:
    from tests.tuning.service.conftest import Driver

    driver = Driver(spec)
    url = serve(tokens=tokens)
    with httpx.stream("GET", f"{url}/v1/studies/small/events", headers=GOOD, timeout=300) as stream:
        lines = stream.iter_lines()
        assert next(lines)
        for _ in range(connections.TOTAL + 50):
            connect(url, strangers)
        driver.trial(30, "complete", val_accuracy=0.5)
        driver.end()
        assert "event: study_end" in list(lines)


def test_an_address_has_a_share_and_loses_its_own_oldest(serve, finished, strangers, monkeypatch) -> None:
    monkeypatch.setattr(connections, "PER_ADDRESS", 4)
    url = serve()
    other = connect(url, strangers, "127.0.0.3")
    those = [connect(url, strangers, "127.0.0.2") for _ in range(6)]
    assert [is_closed(one, 1) for one in those] == [True] * 2 + [False] * 4
    other.sendall(HEAD + b"\r\n")
    assert other.recv(100).startswith(b"HTTP/1.1 200")


def test_what_is_no_request_in_time_is_closed(serve, finished, tokens, strangers, monkeypatch) -> None:
    """Nothing; a head that drips; a head that drips after an answer; a body that drips after a refusal; unread answers."""
    monkeypatch.setattr(connections, "IDLE_SECONDS", 1.0)
    url = serve(tokens=tokens)
    silent, drips, again, refused, unread = (connect(url, strangers) for _ in range(5))
    again.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert again.recv(1000).startswith(b"HTTP/1.1 200")
    refused.sendall(b"POST /v1/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n")
    assert refused.recv(1000).startswith(b"HTTP/1.1 401")
    dripping = {drips: 1, again: 1, refused: 1, unread: 10_000}  # bytes at a time
    for connection in dripping:
        connection.settimeout(0.05)
    many = (HEAD + b"\r\n") * 1000
    deadline = time.monotonic() + 300
    while dripping and time.monotonic() < deadline:
        for connection, size in list(dripping.items()):
            try:
                connection.sendall(many[:size])
                if size == 1 and not connection.recv(65536):
                    del dripping[connection]
            except TimeoutError:
                continue
            except ConnectionError:
                del dripping[connection]
    assert not dripping
    assert is_closed(silent, 60)


def test_a_slow_body_of_a_known_client_has_its_own_time(
    serve, finished, tokens, strangers, monkeypatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.5)
    connection = connect(serve(tokens=tokens), strangers)
    connection.sendall(
        b"POST /v1/studies/small/extend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + f"Authorization: Bearer {TOKEN}\r\nContent-Length: 13\r\n\r\n".encode()
    )
    time.sleep(1.5)
    connection.sendall(b'{"trials": 9}')
    assert connection.recv(1000).startswith(b"HTTP/1.1 202")


def test_probes_are_answered_while_all_workers_wait_for_a_database(serve, finished) -> None:
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
        assert statuses == [], "they wait"
        database.execute("ROLLBACK")
        for thread in threads:
            thread.join()
    database.close()
    assert statuses == [202] * 45


def test_probes_are_never_told_to_come_back_later(serve, finished, tokens) -> None:
    with httpx.Client(base_url=serve(tokens=tokens, requests_per_minute=20), timeout=300) as http:
        assert [http.get("/v1/studies").status_code for _ in range(25)] == [401] * 20 + [429] * 5
        assert {http.get(path).status_code for path in ("/health", "/ready") * 30} == {200}


def test_readiness_asks_the_storage_once_a_second(serve, finished, monkeypatch) -> None:
    asked: list[float] = []
    from proxytune.tuning.service.studies import Studies

    names = Studies.names
    monkeypatch.setattr(Studies, "names", lambda self: asked.append(time.monotonic()) or names(self))
    with httpx.Client(base_url=serve(), timeout=300) as http:
        assert {http.get("/ready").status_code for _ in range(100)} == {200}
    assert all(later - earlier > 0.9 for earlier, later in pairwise(asked))


@pytest.mark.parametrize("order", [1, -1])
def test_two_lengths_are_refused_and_the_connection_ends(http, strangers, order) -> None:
    """What one server takes for the end of a body would be a second request to another in front of it."""
    both = [b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n"][::order]
    body = b"0\r\n\r\n"
    smuggled = HEAD + b"\r\n"
    connection = connect(str(http.base_url), strangers)
    connection.sendall(
        b"POST /v1/studies HTTP/1.1\r\nHost: localhost\r\n" + b"".join(both) + b"\r\n" + body + smuggled
    )
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("enqueue", {"params": {"model.num_proxies": "\ud800"}}),
        ("enqueue", {"params": {"\ud800": 4}}),
        ("extend", {"trials": "\udfff"}),
        ("extend", {"trials": 9, "\ud800": 1}),
    ],
)
def test_half_a_surrogate_pair_is_a_value_like_any_other_that_is_refused(http, path, body) -> None:
    answer = http.post(
        f"/v1/studies/small/{path}",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422
    assert answer.json()["error"] == "InputError"


def test_half_a_surrogate_pair_in_a_study_is_refused(http, finished) -> None:
    values = finished.model_dump(mode="json") | {"name": "\ud800"}
    answer = http.post(
        "/v1/studies", content=json.dumps(values), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
