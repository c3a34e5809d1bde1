"""Access control over real HTTP: tokens, scopes, origins, rate limits and limits of bodies."""

import functools
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxytune.tuning.commands.serve import serve as serve_command
from proxytune.tuning.errors import InputError
from proxytune.tuning.service import limits
from proxytune.tuning.service.app import make_app
from proxytune.tuning.service.auth import Tokens, bearer, read_tokens
from proxytune.tuning.service.gate import OPEN
from proxytune.tuning.service.settings import Settings, is_loopback

TOKEN = "alice-0123456789abcdef0123456789abcdef"

GOOD = {"Authorization": f"Bearer {TOKEN}"}


@functools.cache
def _routes() -> list[tuple[str, str]]:
    document = make_app(Settings(storage=Path("/nowhere"))).openapi()
    return [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]


def test_every_route_requires_a_token(serve, finished, tokens) -> None:
    """Every route of the application and unknown routes: without a token, with a wrong token, and with another scheme."""
    routes = _routes()
    assert len(routes) > 12
    app_routes = {path for _, path in routes}
    assert {"/v1/studies", "/metrics", "/openapi.json", "/v1/studies/{name}/export"} <= app_routes
    bad = [
        {},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
    ]
    with httpx.Client(base_url=serve(tokens=tokens)) as http:
        for method, path in [*routes, ("GET", "/v1/unknown"), ("DELETE", "/v1/studies/small")]:
            address = path.replace("{name}", "small")
            for headers in bad:
                response = http.request(method, address, headers=headers)
                if path in OPEN:
                    assert response.status_code == 200
                    continue
                assert response.status_code == 401, (method, path)
                assert response.headers["www-authenticate"].startswith("Bearer")
                assert response.headers["content-type"] == "application/problem+json"
            if method == "GET":
                # 503: the study has no checkpoint to export
                assert http.get(address, headers=GOOD).status_code in (200, 404, 503)


def test_document_lists_every_route() -> None:
    app = make_app(Settings(storage=Path("/nowhere")))
    found = set()

    def walk(routes) -> None:
        for route in routes:
            if hasattr(route, "methods"):
                found.update((method, route.path) for method in route.methods)
            elif hasattr(route, "routes"):
                walk(route.routes)

    walk(app.routes)
    assert found <= set(_routes())


tokens_file = st.dictionaries(
    st.builds(str.__add__, st.sampled_from("aZ9"), st.text("aZ9._-", max_size=20)),
    st.builds(
        str.__add__, st.sampled_from(["0" * 31, "aB" * 30]), st.text("aZ9._~+/=-", min_size=1, max_size=9)
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=50)
@given(tokens_file, st.data())
def test_only_the_tokens_of_the_file_are_accepted(tmp_path_factory, tokens, data) -> None:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.touch(mode=0o600)
    path.write_text("# name: token\n\n" + "\n".join(f"{name}:{token}" for name, token in tokens.items()))
    known = read_tokens(path)
    assert set(known) == set(tokens)
    for token in tokens.values():
        assert tokens[bearer(known, f"Bearer {token}".encode()).name] == token
        assert token not in repr(known)
    other = data.draw(
        st.binary(max_size=100).filter(lambda text: text.strip() not in {t.encode() for t in tokens.values()})
    )
    assert bearer(known, b"Bearer " + other) is None
    assert bearer(known, None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alice:short", "use at least 32"),
        ("al ice:" + "0" * 40, "line 1: write it as name:token"),
        (f"a:{'0' * 40}\na:{'1' * 40}", "line 2: a second token of a"),
        (f"{'0' * 40}\n{'1' * 40}", "give each a name"),
        ("# none", "contains no token"),
    ],
)
def test_invalid_token_file_is_rejected_without_printing_tokens(tmp_path, text, message) -> None:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_tokens(path)
    assert "0" * 40 not in str(caught.value)


def test_world_readable_token_file_causes_a_warning(tmp_path) -> None:
    path = tmp_path / "tokens"
    path.write_text("0" * 40)
    path.chmod(0o644)
    with pytest.warns(UserWarning, match="every user of this machine can read it"):
        assert list(read_tokens(path)) == ["token"]


SCOPES = {"metrics": 1, "read": 2, "steer": 3, "submit": 4}
NEEDS = {
    ("GET", "/metrics"): 1,
    ("GET", "/openapi.json"): 2,
    ("POST", "/v1/studies"): 4,
    ("POST", "/v1/studies/{name}/confirm"): 4,
}


def test_scope_of_a_token_is_enforced_on_every_route(serve, finished, token_file) -> None:
    """Each scope includes the scopes before it."""
    token_file.write_text("".join(f"{scope}:{scope}:{scope * 8}{'0' * 40}\n" for scope in SCOPES))
    with httpx.Client(base_url=serve(tokens=Tokens(token_file)), timeout=300) as http:
        for method, path in set(_routes()) - {("GET", path) for path in OPEN}:
            needs = NEEDS.get((method, path), 2 if method == "GET" else 3)
            for scope, level in SCOPES.items():
                headers = {"Authorization": f"Bearer {scope * 8}{'0' * 40}"}
                response = http.request(method, path.replace("{name}", "none"), headers=headers)
                assert (response.status_code == 403) == (level < needs), (method, path, scope)
                if level < needs:
                    assert (
                        f"token {scope} has the scope {scope}; this request needs"
                        in response.json()["detail"]
                    )


def test_tokens_are_revoked_and_added_without_a_restart(serve, finished, tokens, token_file) -> None:
    with httpx.Client(base_url=serve(tokens=tokens), headers=GOOD, timeout=300) as http:
        assert http.get("/v1/studies").status_code == 200
        kept = token_file.read_text()
        token_file.write_text(kept.partition("\n")[2])
        assert http.get("/v1/studies").status_code == 401
        bob = {"Authorization": "Bearer bob-" + "0" * 40}
        assert http.get("/v1/studies", headers=bob).status_code == 200
        token_file.write_text("no line of a token file")
        assert http.get("/v1/studies", headers=bob).status_code == 401
        token_file.unlink()
        assert http.get("/v1/studies", headers=bob).status_code == 401
        token_file.write_text(kept)
        assert http.get("/v1/studies").status_code == 200


def test_token_is_read_from_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("PROXYTUNE_TOKEN", TOKEN)
    assert bearer(read_tokens(None), f"bearer  {TOKEN}".encode()).name == "environment"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8642"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "192.168.0.9"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:9999"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Host": "LOCALHOST:8642"}, 200),
        ({"Host": "[::1]:8642"}, 200),
        ({"Host": "127.0.0.2:8642"}, 200),
        ({}, 200),
    ],
)
def test_requests_from_web_pages_are_rejected_on_loopback(http: httpx.Client, headers, status) -> None:
    response = http.get("/v1/studies", headers=headers)
    assert response.status_code == status
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert "server" not in response.headers
    if status == 403:
        preflight = http.options("/v1/studies", headers=headers | {"Access-Control-Request-Method": "POST"})
        assert preflight.status_code == 403


def test_server_listens_on_any_loopback_address(serve, finished) -> None:
    with httpx.Client(base_url=serve(host="127.0.0.2"), timeout=300) as http:
        assert http.get("/v1/studies").status_code == 200
        assert http.get("/v1/studies", headers={"Origin": "http://127.0.0.2"}).status_code == 403


def test_wrong_method_gets_the_allowed_methods(http: httpx.Client) -> None:
    for path, allowed in (
        ("/v1/studies", "GET, POST"),
        ("/v1/studies/small/pause", "POST"),
        ("/health", "GET"),
    ):
        response = http.delete(path)
        assert (response.status_code, response.headers["allow"]) == (405, allowed)


def test_loopback_addresses_are_recognized() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.1.2.3", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.9", "example.org", ""]))


def test_too_large_body_is_rejected_before_it_is_read(http: httpx.Client) -> None:
    declared = http.post("/v1/studies", content=b"x" * (limits.MAX_BODY + 1))
    assert (declared.status_code, declared.headers["connection"]) == (413, "close")
    assert f"{limits.MAX_BODY:,} bytes" in declared.json()["detail"]
    chunked = http.post("/v1/studies", content=iter([b"x" * 40_000] * 3))
    assert chunked.status_code == 413
    fits = http.post(
        "/v1/studies", content=b"x" * limits.MAX_BODY, headers={"Content-Type": "application/json"}
    )
    assert fits.status_code == 400


def test_incomplete_body_times_out(http: httpx.Client, monkeypatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.3)
    url = http.base_url
    with socket.create_connection((url.host, url.port), timeout=300) as connection:
        connection.sendall(b"POST /v1/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nslow")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_rate_limit_returns_429_with_retry_after(serve, finished, tokens) -> None:
    with httpx.Client(base_url=serve(tokens=tokens, requests_per_minute=30), headers=GOOD) as http:
        assert http.post("/v1/studies/small/pause").status_code == 202  # counts as ten
        responses = [http.get("/v1/studies/small/spec") for _ in range(25)]
        assert [response.status_code for response in responses] == [200] * 20 + [429] * 5
        assert 1 <= int(responses[-1].headers["retry-after"]) <= 61
        assert "30 requests in a minute" in responses[-1].json()["detail"]
        bob = {"Authorization": "Bearer bob-" + "0" * 40}
        assert http.get("/v1/studies/small/spec", headers=bob).status_code == 200
        strangers = [http.get("/v1/studies", headers={"Authorization": "Bearer no"}) for _ in range(35)]
        assert [response.status_code for response in strangers] == [401] * 30 + [429] * 5


def test_serve_command_rejects_an_open_address_without_token_and_a_used_port(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("PROXYTUNE_TOKEN", raising=False)
    storage = tmp_path / "studies"
    with pytest.raises(InputError, match="set a token"):
        serve_command.main(["--host", "0.0.0.0", "--storage", str(storage)], standalone_mode=False)
    assert not storage.exists()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        arguments = ["--port", str(taken.getsockname()[1]), "--storage", str(storage)]
        with pytest.raises(InputError, match="Address already in use; choose another"):
            serve_command.main(arguments, standalone_mode=False)


@pytest.mark.slow
@pytest.mark.e2e
def test_serve_command_exits_at_sigterm_and_leaks_no_token(tmp_path, finished) -> None:
    token = "canary-0123456789abcdef0123456789abcdef"
    command = [
        sys.executable,
        "-P",
        "-c",
        "from proxytune.tuning.cli import main; main()",
        "serve",
        "--port",
        "0",
    ]
    with (
        subprocess.Popen(
            [*command, "--storage", str(finished.storage)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PROXYTUNE_TOKEN": token},
        ) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)  # otherwise a failed assertion would wait for the server
        assert process.stdout is not None
        url = re.search(r"http://[\d.:]+", process.stdout.readline())[0]
        assert httpx.get(f"{url}/v1/studies", timeout=300).status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{url}/v1/studies", headers=headers, timeout=300).status_code == 200
        httpx.post(f"{url}/v1/studies/small/pause", headers=headers, timeout=300).raise_for_status()
        end = (finished.folder / "outbox" / "events.jsonl").stat().st_size
        with httpx.stream(
            "GET",
            f"{url}/v1/studies/small/events",
            headers=headers | {"Last-Event-ID": str(end)},
            timeout=300,
        ) as stream:
            assert stream.status_code == 200  # the stream waits for further events
            process.terminate()
            stream.read()
        output = process.stdout.read()
        assert process.wait() == 0
    assert token not in output
    assert "Traceback" not in output
    for path in finished.storage.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path
