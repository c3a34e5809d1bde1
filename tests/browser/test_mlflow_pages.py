"""MLflow's pages of a tracked study: a headless Chromium opens a real `mlflow server`.

Screenshots are saved in build/screenshots, and the summary of the test run lists their paths. Needs the dev extra and
Chromium (the environment variable CHROMIUM names it; the default is the usual paths).
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

playwright = pytest.importorskip("playwright.sync_api", reason="the dev extra installs playwright")

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.e2e]
ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
NUM_TRIALS = 30
RUN_NAME = re.compile(r"^\d{4} \w+$")


@pytest.fixture(scope="module")
def outbox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of thirty trials and a smaller one in the same experiment, both shipped by the real shipper."""
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
    candidates = (
        os.environ.get("CHROMIUM"),
        "/usr/bin/chromium",
        shutil.which("chromium"),
        shutil.which("google-chrome"),
    )
    path = next((name for name in candidates if name and Path(name).exists()), None)
    if path is None:
        pytest.skip("Chromium not found: apt-get install chromium, or set CHROMIUM")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        chromium = driver.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, record_property: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1500, "height": 950})
    page.set_default_timeout(180_000)  # ms; the first page after the server's start is slow
    page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    page.add_init_script("localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')")
    page.screenshot_paths = []
    yield page
    record_property("screenshots", " ".join(page.screenshot_paths))
    page.close()


def take_screenshot(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(1500)  # ms, so that the picture shows the state after animations and with all fonts
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=path)
    page.screenshot_paths.append(str(path.relative_to(ROOT)))


def best_trial(outbox_folder: Path) -> int:
    """The number of the complete trial with the highest last accuracy, from the journal."""
    accuracy: dict[int, float] = {}
    complete = set()
    for event in read_events(outbox_folder).events:
        if event.kind == "report":
            accuracy[event.trial] = event.metrics["val_accuracy"]
        elif event.kind == "end" and event.outcome == "complete":
            complete.add(event.trial)
    return max(complete, key=lambda number: accuracy[number])


def experiment_url(page: Any, server: Any) -> str:
    response = page.request.post(
        f"{server.url}/api/2.0/mlflow/experiments/search",
        data={"max_results": 10, "filter": "name = 'proxytune'"},
    )
    return f"{server.url}/#/experiments/{response.json()['experiments'][0]['experiment_id']}"


def runs(page: Any, server: Any) -> list[dict[str, Any]]:
    identifier = experiment_url(page, server).rpartition("/")[2]
    response = page.request.post(
        f"{server.url}/api/2.0/mlflow/runs/search", data={"experiment_ids": [identifier], "max_results": 1000}
    )
    return list(response.json()["runs"])


def run_of_study(page: Any, server: Any) -> dict[str, Any]:
    (run,) = (run for run in runs(page, server) if run["info"]["run_name"] == "listops-proxyformer")
    return run


def run_url(page: Any, server: Any, run: dict[str, Any]) -> str:
    return f"{experiment_url(page, server)}/runs/{run['info']['run_id']}"


def test_experiment_page_lists_the_study_and_expands_its_trials(page: Any, server: Any) -> None:
    page.goto(server.url)
    page.get_by_role("link", name="Experiments").first.click()
    page.get_by_role("link", name="proxytune").first.click()
    page.goto(f"{experiment_url(page, server)}/runs")
    page.get_by_text("listops-proxyformer").first.wait_for()
    take_screenshot(page, "1-experiment")
    row = page.get_by_role("row").filter(has_text="listops-proxyformer").first
    row.locator("[col-id*='Run Name'] button").click()
    page.get_by_text(re.compile(r"^0029 \w+")).first.wait_for()
    take_screenshot(page, "2-trials")


def shown_run_names(page: Any) -> list[str]:
    """Names of the runs in the table, from top to bottom."""
    names = page.locator(".ag-center-cols-container, .ag-pinned-left-cols-container").get_by_text(RUN_NAME)
    names.first.wait_for()
    return [name.inner_text() for name in names.all()]


def test_leaderboard_link_shows_the_study_sorted_and_sends_no_telemetry(
    page: Any, server: Any, outbox_folder: Path
) -> None:
    """The leaderboard shows only this study's trials, best first, with outcome, metrics and parameters as columns."""
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    storage = outbox_folder.parents[1]
    paths = leaderboards(storage, default_uri(storage))
    assert list(paths) == ["listops-proxyformer", "other"]  # the study that ran last is first
    page.goto(server.url + paths["listops-proxyformer"])
    page.get_by_text(f"{NUM_TRIALS} matching runs").wait_for()
    names = shown_run_names(page)
    take_screenshot(page, "3-leaderboard")
    assert names[0] == f"{best_trial(outbox_folder):04d} complete"
    headers = "\n".join(page.locator(".ag-header-cell").all_inner_texts())
    for header in ("outcome", "val_accuracy", "train_memory_mib_per_sequence", "tokens_per_second"):
        assert header in headers
    for header in ("model.num_proxies", "model.contrastive_temperature", "model.dropout"):
        assert header in headers
    assert [url for url in requested if not url.startswith((server.url, "data:", "blob:"))] == []
    telemetry = page.request.get(f"{server.url}/ajax-api/3.0/mlflow/ui-telemetry").json()
    assert telemetry["disable_ui_telemetry"] is True


@pytest.mark.parametrize(
    ("view", "title", "chart"),
    [
        ("curves", "Learning curves", "val_accuracy"),
        ("pareto", "Pareto front", "train_memory_mib_per_sequence"),
        ("parallel", "Parallel coordinates", "Parallel Coordinates"),
    ],
)
def test_chart_view_of_a_study_draws_its_chart(
    page: Any, server: Any, outbox_folder: Path, view: Any, title: str, chart: str
) -> None:
    (path,) = outbox_folder.glob("acknowledged-*.json")
    state = json.loads(path.read_text())
    page.goto(server.url + view_path(state["experiment_id"], state["study"]["id"], view))
    page.get_by_text(re.compile(rf"^{title}")).wait_for()
    cards = page.get_by_test_id("experiment-view-compare-runs-card")
    cards.first.locator(".js-plotly-plot .main-svg, canvas, svg").first.wait_for(state="attached")
    take_screenshot(page, f"3-{view}")
    assert chart in cards.first.inner_text()


def test_description_of_the_study_run_links_to_the_leaderboard(page: Any, server: Any) -> None:
    page.goto(run_url(page, server, run_of_study(page, server)))
    page.goto(f"{server.url}/{page.get_by_role('link', name='leaderboard').get_attribute('href')}")
    page.get_by_text(f"{NUM_TRIALS} matching runs").wait_for()


def test_trial_run_shows_its_description_and_learning_curves(
    page: Any, server: Any, outbox_folder: Path
) -> None:
    prefix = f"{best_trial(outbox_folder):04d} "
    (run,) = (run for run in runs(page, server) if run["info"]["run_name"].startswith(prefix))
    url = run_url(page, server, run)
    page.goto(url)
    page.get_by_text("The complete configuration is the artifact").wait_for()
    page.get_by_text("contrastive_temperature").first.wait_for()
    take_screenshot(page, "4-run")
    page.goto(f"{url}/model-metrics")
    page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for(state="attached")
    take_screenshot(page, "5-curves")


def test_study_run_shows_its_progress_and_the_report_artifact(page: Any, server: Any) -> None:
    url = run_url(page, server, run_of_study(page, server))
    page.goto(url)
    page.get_by_text("trials ended").wait_for()
    take_screenshot(page, "6-study")
    page.goto(f"{url}/artifacts")
    page.get_by_text("report.html").first.click()
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="Study listops-proxyformer").wait_for()
    report.locator(".js-plotly-plot .main-svg").first.wait_for()
    take_screenshot(page, "7-report")
