"""Saved views of a study in MLflow's pages: content, size, and compatibility with the installed MLflow.

tests/browser opens the same views in a browser.
"""

import re
from pathlib import Path

import mlflow.server
import pytest

from proxytune.tuning.spec.metrics import MEMORY, METRICS
from proxytune.tuning.tracking.views import (
    MAX_TAG,
    TAG,
    TITLES,
    StudyTable,
    reads_views,
    search_path,
    unpack,
    view_key,
    view_path,
    view_tags,
)

BUNDLE = Path(mlflow.server.__file__).parent / "js" / "build" / "static" / "js"


def table(num_params: int = 3) -> StudyTable:
    params = [f"model.parameter_{number}" for number in range(num_params)]
    return StudyTable("study", "0123456789abcdef", "parent", {"val_accuracy": "maximize"}, [], params)


def test_leaderboard_shows_the_trials_of_the_study_best_first() -> None:
    state = unpack(view_tags(table(), 1)[TAG + view_key("0123456789abcdef", "leaderboard")])
    assert state["searchFilter"] == "tags.`mlflow.parentRunId` = 'parent'"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`val_accuracy`", False)
    assert state["selectedColumns"] == [
        "tags.`outcome`",
        "metrics.`val_accuracy`",
        f"metrics.`{MEMORY}`",
        "metrics.`tokens_per_second`",
        *(f"params.`model.parameter_{number}`" for number in range(3)),
    ]


def test_first_chart_shows_the_objective_and_constants_have_none() -> None:
    state = unpack(view_tags(table(), 1)[TAG + view_key("0123456789abcdef", "curves")])
    charts = [chart for chart in state["compareRunCharts"] if not chart["deleted"]]
    assert charts[0]["metricKey"] == "val_accuracy"
    assert "parameters" not in {chart.get("metricKey") for chart in charts}
    deleted = {chart["metricKey"] for chart in state["compareRunCharts"] if chart["deleted"]}
    shown = {chart["metricKey"] for chart in charts if "metricKey" in chart}
    assert deleted | shown == {*METRICS, "value"}, "MLflow adds a chart for each metric that is not listed"


def test_each_other_objective_and_cost_has_a_scatter_plot() -> None:
    two = StudyTable(
        "study", "0" * 32, "parent", {"val_loss": "minimize", MEMORY: "minimize"}, ["seconds"], []
    )
    state = unpack(view_tags(two, 1)[TAG + view_key("0" * 32, "pareto")])
    scatters = [chart for chart in state["compareRunCharts"] if chart["type"] == "SCATTER"]
    assert [chart["xaxis"]["key"] for chart in scatters] == [MEMORY, "tokens_per_second", "seconds"]
    assert {chart["yaxis"]["key"] for chart in scatters} == {"val_loss"}
    assert state["orderByAsc"], "a loss is sorted in ascending order"


@pytest.mark.parametrize("num_params", [0, 1, 40])
def test_view_fits_into_a_tag(num_params: int) -> None:
    tags = view_tags(table(num_params), 1)
    assert len(tags) == len(TITLES)
    assert max(map(len, tags.values())) <= MAX_TAG


def test_view_and_search_urls() -> None:
    assert view_path("7", "ab" * 16) == (
        "/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=leaderboard-abababababab"
    )
    assert view_path("7", "ab" * 16, "curves").endswith("curves-abababababab&compareRunsMode=CHART")
    assert "orderByKey=metrics.%60val_accuracy%60&orderByAsc=false" in search_path("7", table())


@pytest.mark.parametrize(
    ("version", "known"),
    [("3.17.2", True), ("3.20.0", True), ("3.9.0", False), ("2.22.1", False), ("4.0.0", False), ("?", False)],
)
def test_views_are_written_for_tested_versions_only(version: str, known: bool) -> None:
    assert reads_views(version) == known


@pytest.fixture(scope="module")
def bundle() -> str:
    return "\n".join(path.read_text() for path in sorted(BUNDLE.glob("*.js")))


def test_installed_mlflow_reads_the_view_format(bundle: str) -> None:
    """The JavaScript of MLflow's pages contains every key that a view uses."""
    assert reads_views(mlflow.__version__), f"MLflow {mlflow.__version__} is not among the tested versions"
    for text in (
        f'"{TAG}"',
        '"viewStateShareKey"',
        '"deflate;"',
        '"compareRunsMode"',
        '"FIRST_20_RUNS"',
        '"SHOW_ALL"',
    ):
        assert text in bundle, (
            f"MLflow {mlflow.__version__} no longer has {text}: views.py needs the new format"
        )
    lists = re.findall(r'\["(?:searchFilter|selectedColumns)",[^\]]*\]', bundle)
    persisted = {key for found in lists for key in re.findall(r'"(\w+)"', found)}
    state = unpack(next(iter(view_tags(table(), 1).values())))
    unread = state.keys() - persisted
    assert not unread, f"MLflow {mlflow.__version__} does not restore {sorted(unread)} of a view"
    for chart in state["compareRunCharts"]:
        assert f'="{chart["type"]}"' in bundle, f"MLflow {mlflow.__version__} has no chart {chart['type']}"
        for field in chart.keys() - {"uuid", "type"}:
            assert re.search(rf"\.{field}\b", bundle), (
                f"MLflow {mlflow.__version__} no longer reads {field} of a chart"
            )
