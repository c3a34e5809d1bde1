"""What people see: a real headless Chromium on a real `mlflow server` over a study that was tracked.

Screenshots are kept in build/screenshots, and their paths are in the summary of the test run. Needs the dev extra and a Chromium on the machine (CHROMIUM names it,
else the usual places are looked at).
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.spec.locations import default_uri
from proxytune.tuning.tracking.links import leaderboards
from proxytune.tuning.tracking.shipper import Shipper
from proxytune.tuning.tracking.views import view_path
from tests.benchmarks.synthetic import synthetic_events
from tests.tuning.tracking.servers import MlflowServer

playwright = pytest.importorskip("playwright.sync_api", reason="the dev extra brings playwright")

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.e2e]
ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
NUM_TRIALS = 30
NAME = re.compile(r"^\d{4} \w+$")


@pytest.fixture(scope="module")
def outbox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of thirty trials, and another one in the same experiment, shipped as the search ships them."""
    storage = tmp_path_factory.mktemp("studies")
    for name, num_trials, seed in (("other", 4, 3), ("listops-proxyformer", NUM_TRIALS, 12)):
        folder = storage / name / "outbox"
        outbox = Outbox(folder)
        for event in synthetic_events(num_trials, seed=seed, name=name):
            outbox.append(event)
        outbox.close()
        shipper = Shipper(folder, default_uri(storage), "proxytune")
        shipper.start()
        assert shipper.close(600) == 0, shipper.error
    return folder


@pytest.fixture(scope="module")
def server(outbox_folder: Path) -> Iterator[Any]:
    storage = outbox_folder.parents[1]
    server = MlflowServer(default_uri(storage), storage / "mlartifacts")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    places = (
        os.environ.get("CHROMIUM"),
        "/usr/bin/chromium",
        shutil.which("chromium"),
        shutil.which("google-chrome"),
    )
    path = next((place for place in places if place and Path(place).exists()), None)
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or set CHROMIUM")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        chromium = driver.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, record_property: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1500, "height": 950})
    page.set_default_timeout(180_000)  # the first page after a cold start of the server
    page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    page.add_init_script("localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')")
    page.kept = []
    yield page
    record_property("screenshots", " ".join(page.kept))
    page.close()


def keep(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(1500)  # for the eye only: animations and late fonts
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=path)
    page.kept.append(str(path.relative_to(ROOT)))


def winner(outbox_folder: Path) -> int:
    """The complete trial with the highest accuracy, from the journal."""
    last: dict[int, float] = {}
    complete = set()
    for event in read_events(outbox_folder).events:
        if event.kind == "report":
            last[event.trial] = event.metrics["val_accuracy"]
        elif event.kind == "end" and event.outcome == "complete":
            complete.add(event.trial)
    return max(complete, key=lambda number: last[number])


def experiment_url(page: Any, server: Any) -> str:
    answer = page.request.post(
        f"{server.url}/api/2.0/mlflow/experiments/search",
        data={"max_results": 10, "filter": "name = 'proxytune'"},
    )
    return f"{server.url}/#/experiments/{answer.json()['experiments'][0]['experiment_id']}"


def runs(page: Any, server: Any) -> list[dict[str, Any]]:
    identifier = experiment_url(page, server).rpartition("/")[2]
    answer = page.request.post(
        f"{server.url}/api/2.0/mlflow/runs/search", data={"experiment_ids": [identifier], "max_results": 1000}
    )
    return list(answer.json()["runs"])


def test_the_experiment_opens_and_the_parent_expands(page: Any, server: Any) -> None:
    page.goto(server.url)
    page.get_by_role("link", name="Experiments").first.click()
    page.get_by_role("link", name="proxytune").first.click()
    page.goto(f"{experiment_url(page, server)}/runs")
    page.get_by_text("listops-proxyformer").first.wait_for()
    keep(page, "1-experiment")
    (study,) = page.get_by_role("row").filter(has_text="listops-proxyformer").all()[:1]
    study.locator("[col-id*='Run Name'] button").click()
    page.get_by_text(re.compile(r"^0029 \w+")).first.wait_for()
    keep(page, "2-trials")


def rows(page: Any) -> list[str]:
    """Names of the runs in the table, from the top."""
    names = page.locator(".ag-center-cols-container, .ag-pinned-left-cols-container").get_by_text(NAME)
    names.first.wait_for()
    return [name.inner_text() for name in names.all()]


def test_the_printed_address_opens_on_the_leaderboard(page: Any, server: Any, outbox_folder: Path) -> None:
    """One click from nothing: this study's trials only, the winner first, with what matters as columns."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    storage = outbox_folder.parents[1]
    paths = leaderboards(storage, default_uri(storage))
    assert list(paths) == ["listops-proxyformer", "other"], "the study that ran last is first"
    page.goto(server.url + paths["listops-proxyformer"])
    page.get_by_text(f"{NUM_TRIALS} matching runs").wait_for()
    shown = rows(page)
    keep(page, "3-leaderboard")
    assert shown[0] == f"{winner(outbox_folder):04d} complete"
    heads = page.locator(".ag-header-cell").all_inner_texts()
    for head in ("outcome", "val_accuracy", "train_memory_mib_per_sequence", "tokens_per_second"):
        assert head in "\n".join(heads)
    for head in ("model.num_proxies", "model.contrastive_temperature", "model.dropout"):
        assert head in "\n".join(heads)
    assert [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == [], "no telemetry"
    told = page.request.get(f"{server.url}/ajax-api/3.0/mlflow/ui-telemetry").json()
    assert told["disable_ui_telemetry"] is True


@pytest.mark.parametrize(
    ("view", "title", "chart"),
    [
        ("curves", "Learning curves", "val_accuracy"),
        ("pareto", "Pareto front", "train_memory_mib_per_sequence"),
        ("parallel", "Parallel coordinates", "Parallel Coordinates"),
    ],
)
def test_every_study_has_its_charts(
    page: Any, server: Any, outbox_folder: Path, view: Any, title: str, chart: str
) -> None:
    (known,) = outbox_folder.glob("acknowledged-*.json")
    state = json.loads(known.read_text())
    page.goto(server.url + view_path(state["experiment_id"], state["study"]["id"], view))
    page.get_by_text(re.compile(rf"^{title}")).wait_for()
    cards = page.get_by_test_id("experiment-view-compare-runs-card")
    cards.first.locator(".js-plotly-plot .main-svg, canvas, svg").first.wait_for(state="attached")
    keep(page, f"3-{view}")
    assert chart in cards.first.inner_text()


def test_the_study_s_description_leads_to_its_views(page: Any, server: Any) -> None:
    (run,) = (run for run in runs(page, server) if run["info"]["run_name"] == "listops-proxyformer")
    page.goto(f"{experiment_url(page, server)}/runs/{run['info']['run_id']}")
    page.goto(f"{server.url}/{page.get_by_role('link', name='leaderboard').get_attribute('href')}")
    page.get_by_text(f"{NUM_TRIALS} matching runs").wait_for()


def test_a_run_explains_itself_and_shows_its_curves(page: Any, server: Any, outbox_folder: Path) -> None:
    (run,) = (
        run
        for run in runs(page, server)
        if run["info"]["run_name"].startswith(f"{winner(outbox_folder):04d} ")
    )
    url = f"{experiment_url(page, server)}/runs/{run['info']['run_id']}"
    page.goto(url)
    page.get_by_text("The complete configuration is the artifact").wait_for()
    page.get_by_text("contrastive_temperature").first.wait_for()
    keep(page, "4-run")
    page.goto(f"{url}/model-metrics")
    page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for(state="attached")
    keep(page, "5-curves")


def test_the_study_s_own_run_shows_its_standing_and_its_report(page: Any, server: Any) -> None:
    (run,) = (run for run in runs(page, server) if run["info"]["run_name"] == "listops-proxyformer")
    url = f"{experiment_url(page, server)}/runs/{run['info']['run_id']}"
    page.goto(url)
    page.get_by_text("trials ended").wait_for()
    keep(page, "6-study")
    page.goto(f"{url}/artifacts")
    page.get_by_text("report.html").first.click()
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="Study listops-proxyformer").wait_for()
    report.locator(".js-plotly-plot .main-svg").first.wait_for()
    keep(page, "7-report")
