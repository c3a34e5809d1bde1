"""optuna-dashboard opens a study's database, shows the objective's name and fits the window's width."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxytune.tuning.journal.recovery import open_journal
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.study_files import read_study
from proxytune.tuning.trial.update import TrialUpdate

playwright = pytest.importorskip("playwright.sync_api", reason="the dev extra installs playwright")
pytest.importorskip("optuna_dashboard", reason="the dev extra installs optuna-dashboard")

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1800)]
SCREENSHOT = Path(__file__).parents[2] / "build" / "screenshots" / "optuna-dashboard.png"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The database of the shipped study `listops` with three complete trials."""
    spec = read_study(
        "listops", [f"storage={tmp_path}/studies", "search.trials=3", "search.stopping.name=none"]
    )
    study = begin_study(spec)
    outbox = open_journal(study)
    controller = StudyController(spec, study.optuna, study.storage, outbox)
    controller.reconcile()
    while (assignment := controller.next_trial()) is not None:
        metrics = {"val_accuracy": 0.3 + assignment.number / 10, "val_loss": 1.0}
        steps = int(spec.training["steps"])
        controller.receive(
            assignment.number, TrialUpdate(step=steps, metrics=metrics, outcome="complete"), {}
        )
    outbox.close()
    study.storage.engine.dispose()
    return spec.folder / "study.db"


@pytest.fixture
def address(database: Path) -> Iterator[str]:
    """The URL of the study's page on a running optuna-dashboard."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "optuna_dashboard._cli", f"sqlite:///{database}", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/dashboard", timeout=10).close()
                break
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/dashboard/studies/1"
        server.terminate()


def test_study_page_shows_the_metric_name_and_fits_the_window(address: str) -> None:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.get_by_text("Study User Attributes").wait_for()
        page.get_by_text("val_accuracy").first.wait_for()
        SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(1500)  # ms, until animations end
        page.screenshot(path=SCREENSHOT)
        assert page.evaluate("document.documentElement.scrollWidth") <= 1400
        browser.close()
