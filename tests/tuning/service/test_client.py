"""The Python client with real servers: exceptions, pages, and event streams that survive a server restart."""

import http.server
import threading
from pathlib import Path

import httpx
import pytest

from proxytune.tuning.errors import InputError, OtherSpecError, ProxytuneError
from proxytune.tuning.service import client as module
from proxytune.tuning.service.client import Client
from proxytune.tuning.spec.yaml_file import as_yaml
from tests.tuning.service.conftest import TOKEN, Driver


def test_client_reads_and_steers_a_study(serve, finished, tokens, tmp_path, monkeypatch) -> None:
    url = serve(tokens=tokens)
    (tmp_path / "token").write_text(f"alice:{TOKEN}\n")
    monkeypatch.delenv("PROXYTUNE_TOKEN", raising=False)
    with Client(url, token_file=tmp_path / "token") as client:
        assert [line["study"] for line in client.studies()] == ["small"]
        assert client.study("small")["best"][0]["trial"] == 1
        assert client.spec("small")["training"]["steps"] == 30
        assert [trial["trial"] for trial in client.trials("small")] == [0, 1, 2, 3]
        assert [trial["trial"] for trial in client.trials("small", "diverged")] == [2]

        assert client.best("small", max_memory_mib=4)["best"]["trial"] == 0
        assert [point["trial"] for point in client.pareto("small")["points"]] == [0, 1]
        assert client.extend("small", 6)["who"] == "alice@http"
        assert client.enqueue("small", {"model.num_proxies": 2})["action"] == "enqueue"
        assert client.pause("small")["action"] == "pause"
        assert client.stop("small", now=True)["action"] == "stop now"
        assert [event["kind"] for event in client.events("small")][-1] == "study_end"
    monkeypatch.setenv("PROXYTUNE_URL", url)
    monkeypatch.setenv("PROXYTUNE_TOKEN", TOKEN)
    with Client() as client:
        assert client.study("small")["budget"] == 6


def test_client_reads_all_pages(serve, finished) -> None:
    names = [f"s{number}" for number in range(100, 160)]  # more than a page
    for name in names:
        (finished.storage / name).mkdir()
        (finished.storage / name / "study.db").write_bytes(b"damaged")
    with Client(serve()) as client:
        assert [line["study"] for line in client.studies()] == [*names, "small"]


def test_client_raises_the_errors_of_the_command_line(serve, finished, tokens, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("PROXYTUNE_TOKEN", raising=False)
    with Client(serve()) as client:
        with pytest.raises(InputError, match="no study 'nothing'"):
            client.study("nothing")
        with pytest.raises(InputError, match="3 is below the 4 that study small has started"):
            client.extend("small", 3)
        values = finished.model_dump(mode="json")
        with pytest.raises(ProxytuneError, match="has no cluster"):
            client.submit(values)
        with pytest.raises(OtherSpecError, match=r"training\.steps was 30, now 31"):
            client.submit(values | {"training": values["training"] | {"steps": 31}})
        with pytest.raises(ProxytuneError, match="has no cluster"):
            client.submit("listops-mini")
        (tmp_path / "study.yaml").write_text("name: [")
        with pytest.raises(InputError, match="study, line 1"):
            client.submit(tmp_path / "study.yaml")
        with pytest.raises(InputError, match="no shipped study of that name"):
            client.submit("listops-maxi")
        with pytest.raises(ProxytuneError, match="has no cluster"):
            client.submit(as_yaml(values))
        with pytest.raises(InputError, match="File name too long, and no shipped study"):
            client.submit("name: " + "x" * 300)
    with (
        Client(serve(tokens=tokens)) as client,
        pytest.raises(InputError, match=r"no valid token .*--?|Bearer TOKEN"),
    ):
        client.studies()
    with pytest.raises(InputError, match="No such file"):
        Client(token_file=tmp_path / "none")


def test_client_reports_an_address_without_a_proxytune_service(tmp_path) -> None:
    with (
        Client("http://127.0.0.1:9") as client,
        pytest.raises(ProxytuneError, match=r"http://127\.0\.0\.1:9: .*refused"),
    ):
        client.studies()

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if "small" in self.path else 418)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        with Client(f"http://127.0.0.1:{other.server_port}") as client:
            with pytest.raises(ProxytuneError, match="is not a proxytune service"):
                client.study("small")
            with pytest.raises(ProxytuneError, match="responds 418"):
                client.studies()
        other.shutdown()
        thread.join()
    with pytest.raises(InputError, match="not an HTTP address"):
        Client("head:8642")


def test_event_stream_resumes_after_a_server_restart(servers, spec, monkeypatch) -> None:
    """The server stops during the stream and another server takes its port; no event is lost or repeated."""
    monkeypatch.setattr(module, "RECONNECT_SECONDS", (0.1,) * 100)
    driver = Driver(spec)
    url = servers.start()
    seen, first = [], threading.Event()

    def follow() -> None:
        with Client(url) as client:
            for event in client.events("small"):
                seen.append(event)
                first.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert first.wait(300)
    driver.trial(30, "complete", val_accuracy=0.5)
    servers.stop()
    driver.trial(30, "complete", val_accuracy=0.6)
    servers.start(httpx.URL(url).port)
    driver.trial(30, "complete", val_accuracy=0.7)
    driver.end()
    thread.join(120)
    assert not thread.is_alive()
    journal = (Path(spec.folder) / "outbox" / "events.jsonl").read_bytes()
    assert len(seen) == journal.count(b"\n")
    assert [event["trial"] for event in seen if event["kind"] == "end"] == [0, 1, 2]
    assert [event["offset"] for event in seen] == sorted({event["offset"] for event in seen})
    assert seen[-1]["offset"] == len(journal)


def test_event_stream_fails_if_the_server_does_not_return(servers, spec, monkeypatch) -> None:
    monkeypatch.setattr(module, "RECONNECT_SECONDS", (0.01,) * 3)
    driver = Driver(spec)
    with Client(servers.start()) as client:
        events = client.events("small")
        assert next(events)["kind"] == "journal"
        servers.stop()
        with pytest.raises(ProxytuneError, match="is not reachable any more"):
            list(events)
    driver.end()
