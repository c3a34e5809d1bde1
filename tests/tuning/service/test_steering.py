"""Steering requests over real HTTP: a real controller handles them and records the name of the token."""

import httpx
import pytest

from proxytune.tuning.store.lease import Lease
from proxytune.tuning.store.request import Kind
from proxytune.tuning.store.study import open_study
from tests.tuning.service.conftest import TOKEN, Driver


@pytest.fixture
def driver(spec) -> Driver:
    return Driver(spec)


@pytest.fixture
def http(serve, driver, tokens):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=serve(tokens=tokens), timeout=300, headers=headers) as client:
        yield client
    driver.outbox.close()


def act(http: httpx.Client, action: str, body: dict | None = None) -> httpx.Response:
    return (
        http.post(f"/v1/studies/small/{action}", json=body)
        if body
        else http.post(f"/v1/studies/small/{action}")
    )


def test_pause_and_resume(http, driver) -> None:
    first = driver.controller.next_trial()
    assert act(http, "pause").json() == {
        "study": "small",
        "action": "pause",
        "who": "alice@http",
        "job": None,
    }
    driver.poll()
    assert driver.controller.steering.paused_by == "alice@http"
    assert driver.controller.next_trial() is None
    lease = Lease(driver.study.storage, "small")
    lease.acquire()  # a driver runs the study, so no job is submitted
    assert act(http, "resume").status_code == 202
    lease.release()
    driver.poll()
    assert driver.controller.steering.paused_by is None
    assert first.number in driver.controller.live


def test_stop_now_and_later(http, driver) -> None:
    assert act(http, "stop").status_code == 202
    driver.poll()
    assert driver.controller.steering.stopping == "requested by alice@http"
    assert driver.noted() == ["stop"]
    assert act(http, "stop", {"now": True}).status_code == 202
    driver.poll()
    assert driver.noted() == ["stop", "stop now"]


def test_stop_of_a_trial_ends_it(http, driver) -> None:
    number = driver.controller.next_trial().number
    assert act(http, "stop", {"trial": number}).json()["action"] == f"stop trial {number}"
    driver.poll()
    assert driver.study.trials()[number].user_attrs["end"]["reason"] == "stopped by alice@http"
    missing = act(http, "stop", {"trial": 7})
    assert (missing.status_code, missing.json()["detail"]) == (
        422,
        "study small has no trial 7; it has 1 so far",
    )
    assert driver.controller.steering.stopping is None


def test_extend_and_enqueue(http, driver) -> None:
    assert act(http, "extend", {"trials": 9}).status_code == 202
    driver.poll()
    assert driver.study.budget == 9
    assert act(http, "extend", {"trials": 2}).status_code == 202
    driver.poll()
    assert driver.study.budget == 2
    driver.controller.next_trial()  # the trial that the study file enqueues
    less = act(http, "extend", {"trials": 0})
    assert less.status_code == 422
    assert (
        act(http, "enqueue", {"params": {"model.num_proxies": 8, "model.dropout": 0.25}}).status_code == 202
    )
    assignment = driver.controller.next_trial()
    assert (assignment.spec.model["num_proxies"], assignment.spec.model["dropout"]) == (8, 0.25)
    assert driver.study.trials()[assignment.number].user_attrs["enqueued_by"] == "alice@http"


@pytest.mark.parametrize(
    ("action", "body", "status", "detail"),
    [
        ("enqueue", {"params": {"model.num_proxies": 5}}, 422, "model.num_proxies=5 is outside its domain"),
        ("enqueue", {"params": {"model.num_proxy": 4}}, 422, "did you mean model.num_proxies?"),
        ("enqueue", {"params": {"model.dropout": "0.1"}}, 422, "is outside its domain"),
        ("enqueue", {"params": {"model.dropout": [0.1]}}, 422, "body.params.model.dropout"),
        ("enqueue", {"params": {}}, 422, "body.params"),
        ("extend", {"trials": "9"}, 422, "body.trials: Input should be a valid integer"),
        ("extend", {"trials": 9, "more": 1}, 422, "body.more"),
        ("extend", None, 422, "body"),
        ("stop", {"trial": -1}, 422, "body.trial"),
        ("resume", None, 409, "this server has no cluster"),
    ],
)
def test_invalid_request_is_rejected_and_changes_nothing(http, driver, action, body, status, detail) -> None:
    response = act(http, action, body)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert detail in response.json()["detail"]
    assert response.json()["hint"]
    driver.poll()
    assert (
        driver.controller.steering.paused_by,
        driver.controller.steering.stopping,
        driver.study.budget,
    ) == (None, None, 4)
    assert len(driver.study.trials()) == 1  # the trial that the study file enqueues


def test_body_that_is_not_json_is_rejected(http) -> None:
    response = http.post(
        "/v1/studies/small/extend", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400
    assert "the body is not JSON" in response.json()["detail"]


def test_stopping_study_cannot_be_resumed(http, driver) -> None:
    lease = Lease(driver.study.storage, "small")
    lease.acquire()
    act(http, "stop")
    response = act(http, "resume")
    lease.release()
    assert (response.status_code, response.json()["error"]) == (409, "HeldError")
    assert "is stopping; try again when process" in response.json()["detail"]
    study = open_study("small", driver.study.spec.storage)
    (waiting,) = study.requests.pending(Kind.STOP)
    assert waiting.who == "alice@http"
