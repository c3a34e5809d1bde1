"""Read operations of a server over real HTTP, for studies written by a controller."""

import json
import shutil
import time
from pathlib import Path

import httpx
import optuna
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.service import studies
from tests.tuning.service.conftest import Driver


def test_study_is_listed_and_shown(http: httpx.Client) -> None:
    page = http.get("/v1/studies").json()
    assert page["total"] == 1
    assert page["studies"][0]["outcomes"] == {"complete": 2, "diverged": 1, "failed": 1}
    shown = http.get("/v1/studies/small").json()
    assert (shown["trials"], shown["budget"], shown["objectives"]) == (4, 4, {"val_accuracy": "maximize"})
    assert [(point["trial"], point["values"]) for point in shown["best"]] == [(1, {"val_accuracy": 0.7})]
    assert (shown["driver"], shown["job"], shown["events_waiting"]) == (None, None, 14)


def test_trials_are_paged_and_filtered_by_outcome_with_nan_as_null(http: httpx.Client) -> None:
    page = http.get("/v1/studies/small/trials", params={"limit": 1, "offset": 2}).json()
    assert page["total"] == 4
    assert page["trials"][0]["outcome"] == "diverged"
    assert page["trials"][0]["metrics"] == {
        "val_accuracy": 0.1,
        "val_loss": None,
        "train_memory_mib_per_sequence": 2.0,
    }
    complete = http.get("/v1/studies/small/trials", params={"outcome": "complete"}).json()
    assert [trial["trial"] for trial in complete["trials"]] == [0, 1]
    assert complete["trials"][0]["params"] == {"model.num_proxies": 4, "model.dropout": 0.1}
    assert http.get("/v1/studies/small/trials", params={"outcome": "good"}).status_code == 422


def test_changes_by_another_connection_are_visible_immediately(http: httpx.Client, finished) -> None:
    assert http.get("/v1/studies/small").json()["budget"] == 4
    begin_study(finished.model_copy(update={"search": finished.search.model_copy(update={"trials": 9})}))
    assert http.get("/v1/studies/small").json()["budget"] == 9
    assert http.get("/v1/studies/small/spec").json()["search"]["trials"] == 9


def test_damaged_study_is_listed_with_its_error(http: httpx.Client, finished) -> None:
    broken = finished.storage / "broken"
    broken.mkdir()
    (broken / "study.db").write_bytes(b"not a database" * 100)
    broken, small = http.get("/v1/studies").json()["studies"]
    assert "not a database" in broken["error"]
    assert (small["study"], small["error"]) == ("small", None)
    assert http.get("/v1/studies/broken").status_code == 503
    metrics = {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}
    assert metrics["proxytune_studies_unreadable"].samples[0].value == 1
    assert metrics["proxytune_studies"].samples[0].value == 2


def test_more_studies_can_be_read_than_are_kept_open(serve, make_spec, monkeypatch) -> None:
    monkeypatch.setattr(studies, "KEPT", 2)
    names = [f"s{number}" for number in range(4)]
    for name in names:
        begin_study(make_spec(f"name={name}")).storage.engine.dispose()
    with httpx.Client(base_url=serve(), timeout=300) as http:
        for _ in range(2):
            page = http.get("/v1/studies", params={"offset": 1}).json()
            assert page["total"] == 4
            assert [(line["study"], line["error"]) for line in page["studies"]] == [
                (name, None) for name in names[1:]
            ]


def test_metrics_are_readable_by_prometheus(http: httpx.Client) -> None:
    http.get("/v1/studies/small")
    http.get("/v1/studies/nothing")
    http.get("/an/unknown/path")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
    }
    assert samples["proxytune_trials", ("outcome", "complete"), ("study", "small")] == 2
    assert samples["proxytune_trials_budget", ("study", "small")] == 4
    assert samples["proxytune_best_value", ("objective", "val_accuracy"), ("study", "small")] == 0.7
    assert samples["proxytune_outbox_events_waiting", ("study", "small")] == 14
    assert samples["proxytune_running", ("study", "small")] == 0
    requests = {key[1:]: value for key, value in samples.items() if key[0] == "proxytune_http_requests_total"}
    route = ("route", "/v1/studies/{name}")
    assert requests[("method", "GET"), route, ("status", "200")] == 1
    assert requests[("method", "GET"), route, ("status", "404")] == 1
    assert requests[("method", "GET"), ("route", "none"), ("status", "404")] == 1
    assert samples["proxytune_http_request_seconds_count", ("method", "GET"), route] == 2


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2f..%2fetc", "%2fetc", "a%00b", "a%0ab", ".hidden", "mlflow.db", "x" * 200]
)
def test_study_name_cannot_escape_the_storage(http: httpx.Client, finished, name: str) -> None:
    (finished.storage / "mlflow.db").write_bytes(b"x")
    (finished.storage.parent / "study.db").write_bytes(b"x")
    response = http.get(f"/v1/studies/{name}/trials")
    assert response.status_code in (404, 422)
    assert response.headers["content-type"] == "application/problem+json"


def test_link_cannot_escape_the_storage(http: httpx.Client, finished, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (finished.folder / "study.db").rename(tmp_path / "elsewhere" / "study.db")
    (finished.storage / "link").symlink_to(tmp_path / "elsewhere")
    assert http.get("/v1/studies/link").status_code == 404


def test_removed_study_is_not_found_until_it_is_restored(http: httpx.Client, finished) -> None:
    assert http.get("/v1/studies/small").status_code == 200
    finished.folder.rename(finished.storage / "away")
    assert http.get("/v1/studies/small").status_code == 404
    (finished.storage / "away").rename(finished.folder)
    assert http.get("/v1/studies/small").status_code == 200


def test_readiness_checks_the_storage_and_health_does_not(http: httpx.Client, finished) -> None:
    assert http.get("/ready").json() == {"status": "ok"}
    finished.storage.rename(finished.storage.parent / "unmounted")
    for _ in range(1000):
        if http.get("/ready").status_code == 503:  # the storage is checked once per second
            break
        time.sleep(0.2)
    else:
        pytest.fail("the server is ready without its storage")
    assert http.get("/health").status_code == 200


def test_server_reads_the_studies_of_one_database(serve, make_spec, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'all.db'}"
    for name in ("one", "two"):
        driver = Driver(make_spec(f"name={name}", f"database={url}", "search.stopping.name=none"))
        driver.trial(30, "complete", val_accuracy=0.5)
        driver.end()
    optuna.create_study(storage=url, study_name="not-ours")
    with httpx.Client(base_url=serve(database=url), timeout=300) as http:
        lines = http.get("/v1/studies").json()["studies"]
        assert [(line["study"], line["outcomes"]) for line in lines] == [
            ("one", {"complete": 1}),
            ("two", {"complete": 1}),
        ]
        assert http.get("/v1/studies/two/best").json()["best"]["trial"] == 0
        assert http.get("/v1/studies/not-ours").status_code == 404
        assert http.get("/v1/studies/three").status_code == 404
        optuna.delete_study(study_name="two", storage=url)
        assert http.get("/v1/studies/two").status_code == 404
        assert http.get("/v1/studies").json()["total"] == 1
        spec = make_spec("name=two", f"database={url}")
        shutil.rmtree(spec.folder)  # of the deleted study
        begin_study(spec).storage.engine.dispose()
        # the new study has only the configuration that it enqueues
        assert http.get("/v1/studies/two").json()["trials"] == 1


def _events(text: str) -> list[tuple[int, str, dict]]:
    blocks = [
        dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        for block in text.strip().split("\n\n")
    ]
    return [(int(block["id"]), block["event"], json.loads(block["data"])) for block in blocks if block]


def test_event_stream_ends_with_the_study_and_resumes_at_an_offset(http: httpx.Client) -> None:
    response = http.get("/v1/studies/small/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    events = _events(response.text)
    kinds = [kind for _, kind, _ in events]
    assert (kinds[0], kinds[-1], len(kinds)) == ("journal", "study_end", 14)
    assert [event["metrics"]["val_loss"] for _, kind, event in events if kind == "report"] == [1.0, 1.0, None]
    seen = {"Last-Event-ID": str(events[4][0])}
    assert _events(http.get("/v1/studies/small/events", headers=seen).text) == events[5:]
    assert http.get("/v1/studies/small/events", headers={"Last-Event-ID": "x"}).status_code == 422
    for beyond in (10**6, 2**63 - 1, 2**63):
        response = http.get("/v1/studies/small/events", headers={"Last-Event-ID": str(beyond)})
        assert response.status_code == 422
    assert http.get("/v1/studies/nothing/events").status_code == 404
