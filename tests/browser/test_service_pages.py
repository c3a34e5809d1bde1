"""The service's pages in a real browser: they show and control studies; pages of another origin cannot."""

import http.server
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxytune.tuning.journal.events import StudyStarted
from proxytune.tuning.journal.recovery import open_journal
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.study_files import read_study
from proxytune.tuning.store.request import Kind
from proxytune.tuning.store.study import Study
from proxytune.tuning.trial.update import TrialUpdate

playwright = pytest.importorskip("playwright.sync_api", reason="the dev extra installs playwright")

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1800)]
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
TOKEN = "alice-0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The shipped study `recall` with nine finished trials, without Ray and without training."""
    storage = tmp_path_factory.mktemp("pages") / "studies"
    spec = read_study("recall", [f"storage={storage}"])
    study = begin_study(spec)
    outbox = open_journal(study)
    controller = StudyController(spec, study.optuna, study.storage, outbox)
    controller.reconcile()
    outbox.append(StudyStarted(study=spec.name, spec=spec.model_dump(mode="json")))
    for number in range(9):
        assignment = controller.next_trial()
        assert assignment is not None
        for step in (50, 100, 150):
            value = 0.125 + step / 400 * (number + 1) / 9
            metrics = {"val_accuracy": value, "train_memory_mib_per_sequence": 1.0 + number}
            update = TrialUpdate(step=step, metrics=metrics, outcome="complete" if step == 150 else "running")
            if controller.receive(assignment.number, update, {}):
                break
    outbox.close()
    return study


@pytest.fixture
def serve(study: Study) -> Iterator[Callable[..., str]]:
    """A function that starts `proxytune serve` with the given environment variables and returns its URL."""
    servers = []

    def start(**environment: str) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-P", "-m", "proxytune.tuning", "serve", "--port", str(port)]
        command += ["--storage", str(study.spec.storage)]
        servers.append(subprocess.Popen(["env", *(f"{k}={v}" for k, v in environment.items()), *command]))
        deadline = time.monotonic() + 500
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).close()
                return f"http://127.0.0.1:{port}"
            except urllib.error.URLError:
                assert time.monotonic() < deadline
                time.sleep(0.3)

    yield start
    for server in servers:
        server.terminate()
        server.wait(300)


@pytest.fixture
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield launched
        launched.close()


def open_page(browser: Any, address: str, width: int = 1280) -> tuple[Any, list[str]]:
    """A page at the URL, and a list that collects its script errors and violations of the Content-Security-Policy."""
    page, errors = browser.new_page(viewport={"width": width, "height": 900}), []
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: errors.append(message.text) if "Content Security Policy" in message.text else None,
    )
    page.goto(address)
    return page, errors


def test_study_page_shows_trials_and_sends_requests(
    serve: Callable[..., str], browser: Any, study: Study, tmp_path: Path
) -> None:
    address = serve()
    page, errors = open_page(browser, address)
    page.locator("#standing").get_by_text("of 12 trials ended").wait_for()
    assert page.locator("#curves svg g.curve").count() == 9
    assert page.locator("#trials tr.marked").count() == 1
    assert "train memory mib per sequence" in page.locator("#trials").inner_text()
    page.get_by_role("button", name="val accuracy").click()
    column = page.locator("#trials tr").evaluate_all(
        "rows => rows.slice(1).map(r => Number(r.cells[3].textContent))"
    )
    assert column == sorted(column)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "service-1280.png", full_page=True)

    page.locator("#budget").fill("20")
    page.get_by_role("button", name="Set budget").click()
    page.locator("#waits").get_by_text("extend trials 20").wait_for()
    page.get_by_role("button", name="Pause").click()
    page.locator("#waits").get_by_text("paused by local@http").wait_for()
    kinds = [request.kind for request in study.requests.pending()]
    assert {Kind.EXTEND, Kind.PAUSE} <= set(kinds)
    page.get_by_role("button", name="Resume").click()  # this server has no cluster
    page.locator("#message.bad").get_by_text("no cluster").wait_for()

    with page.expect_download() as download:
        page.get_by_role("button", name="Report").click()
    report = tmp_path / "report.html"
    download.value.save_as(report)
    assert "recall" in report.read_text()
    assert errors == []

    narrow, _ = open_page(browser, f"{address}/#recall", width=390)
    narrow.locator("#curves svg g.curve").first.wait_for()
    narrow.screenshot(path=SCREENSHOTS / "service-390.png", full_page=True)
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 390


def test_token_is_requested_and_not_stored(serve: Callable[..., str], browser: Any) -> None:
    page, errors = open_page(browser, serve(PROXYTUNE_TOKEN=TOKEN))
    page.locator("#message").get_by_text("requires a token").wait_for()
    assert page.locator("#trials td").count() == 0
    for token, shown in (("wrong", "#message.bad"), (TOKEN, "#trials td")):
        page.locator("#token input").fill(token)
        page.get_by_role("button", name="Use").click()
        page.locator(shown).first.wait_for()
    assert (
        page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
        ).count(TOKEN)
        == 0
    )
    page.reload()
    page.locator("#message").get_by_text("requires a token").wait_for()
    assert errors == []


def test_docs_page_lists_the_operations(serve: Callable[..., str], browser: Any) -> None:
    page, errors = open_page(browser, f"{serve()}/docs")
    page.get_by_role("heading", name="POST /v1/studies/{name}/pause").wait_for()
    assert page.locator("h3").filter(has_text=re.compile("^(GET|POST) ")).count() > 12
    page.screenshot(path=SCREENSHOTS / "service-docs.png")
    assert errors == []


FOREIGN = """<!doctype html><title>foreign</title>
<form method=post enctype=text/plain action=ADDRESS/v1/studies/recall/stop target=frame><input name=a></form>
<iframe name=frame></iframe><iframe id=page src=ADDRESS/></iframe><script>
const post = (mode, type) => fetch("ADDRESS/v1/studies/recall/stop", {method: "POST", mode, body: "{}", headers: {"Content-Type": type}});
const read = fetch("ADDRESS/page/studies").then((response) => response.text());
document.forms[0].submit();
Promise.allSettled([post("no-cors", "text/plain"), post("cors", "text/plain"), post("cors", "application/json"), read])
  .then((results) => document.title = JSON.stringify(results.map((result) => result.value?.type ?? result.status)));
</script>"""


def test_page_of_another_origin_cannot_read_control_or_frame(
    serve: Callable[..., str], browser: Any, study: Study, tmp_path: Path
) -> None:
    """The page comes from another port of this machine: another origin, but for a browser the same site."""
    address = serve()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "index.html").write_text(FOREIGN.replace("ADDRESS", address))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "foreign"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page, _ = open_page(browser, f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_function("document.title.startsWith('[')")
        assert page.title() == '["opaque","rejected","rejected","rejected"]'
        page.wait_for_timeout(500)  # ms, for the response to the form
        assert all("trials ended" not in frame.content() for frame in page.frames)
        server.shutdown()
    assert Kind.STOP not in [request.kind for request in study.requests.pending()]
