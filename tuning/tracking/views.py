"""Saved views of a study in the MLflow UI: leaderboard, learning curves, Pareto front, parallel coordinates.

The MLflow UI stores a saved view as an experiment tag ``mlflow.sharedViewState.<key>``. Its value is a JSON object
``{name, createdAt, updatedAt, state}``, where ``state`` is ``deflate;`` followed by the base64 of a zlib stream of the
UI's state. MLflow has no API for views. Only this module depends on the format, which was taken from the bundle of
3.17.2 (``tests/tuning/tracking/test_views.py`` compares it with the installed version). `search_path` is a link that
uses only the documented filter and order of a search.
"""

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

from proxytune.tuning.spec.metrics import MEMORY, METRICS

ViewName = Literal["leaderboard", "curves", "pareto", "parallel"]

TITLES: dict[ViewName, str] = {
    "leaderboard": "leaderboard",
    "curves": "learning curves",
    "pareto": "Pareto front",
    "parallel": "parallel coordinates",
}
TAG = "mlflow.sharedViewState."
SPEED = "tokens_per_second"
CURVES = [name for name, metric in METRICS.items() if metric.known == "report" and name != "seconds"]
"""Metrics that change while a trial trains."""
MAX_TAG = 5000
"""Maximum length of an experiment tag in MLflow, in characters."""
_TESTED = (3, 17)
"""The lowest MLflow (major, minor) whose pages read this format; the next major version is not tested."""


@dataclass(frozen=True)
class StudyTable:
    """The content of a study's views.

    journal: id of the study's journal, part of the view's key. parent_run: MLflow run id of the study.
    objectives: metric -> maximize | minimize; the table is sorted by the first. constraints: metrics with a bound.
    params: searched keys.
    """

    study: str
    journal: str
    parent_run: str
    objectives: Mapping[str, str]
    constraints: Sequence[str]
    params: Sequence[str]

    @property
    def filter(self) -> str:
        """MLflow search filter for the trials of this study."""
        return f"tags.`mlflow.parentRunId` = '{self.parent_run}'"

    @property
    def order(self) -> tuple[str, bool]:
        """Column by which the table is sorted, and whether in ascending order."""
        objective, direction = next(iter(self.objectives.items()))
        return _column("metrics", objective), direction == "minimize"

    @property
    def costs(self) -> list[str]:
        """Memory, speed and constrained metrics that are not objectives."""
        names = dict.fromkeys([MEMORY, SPEED, *self.constraints])
        return [name for name in names if name not in self.objectives]


def reads_views(version: str) -> bool:
    """Whether the UI of this MLflow version supports the views."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    return (
        major.isdigit()
        and minor.isdigit()
        and (int(major), int(minor)) >= _TESTED
        and int(major) == _TESTED[0]
    )


def view_key(journal: str, view: ViewName) -> str:
    """Key of a view, unique in its experiment."""
    return f"{view}-{journal[:12]}"


def view_path(experiment_id: str, journal: str, view: ViewName = "leaderboard") -> str:
    """Path of a view on the MLflow server."""
    query = {"workflowType": "machine_learning", "viewStateShareKey": view_key(journal, view)}
    if view != "leaderboard":
        query["compareRunsMode"] = "CHART"
    return f"/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def search_path(experiment_id: str, table: StudyTable) -> str:
    """Path of the sorted list of the study's trials, for an MLflow version that does not support the views."""
    key, ascending = table.order
    query = {"workflowType": "machine_learning", "searchFilter": table.filter}
    query |= {"orderByKey": key, "orderByAsc": str(ascending).lower()}
    return f"/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def view_tags(table: StudyTable, time_ms: int) -> dict[str, str]:
    """Experiment tags of a study's views.

    Args:
        time_ms: creation time of the views (Unix time), by which MLflow sorts them.
    """
    tags = {}
    for view, title in TITLES.items():
        state = _pack(_state(table, view))
        times = {"createdAt": time_ms, "updatedAt": time_ms}
        value = json.dumps({"name": f"{table.study}: {title}", **times, "state": state})
        if len(value) <= MAX_TAG:
            tags[TAG + view_key(table.journal, view)] = value
    return tags


def unpack(value: str) -> dict[str, Any]:
    """The UI's state in a view's tag."""
    state: str = json.loads(value)["state"]
    unpacked: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(state.removeprefix("deflate;"))))
    return unpacked


def _pack(state: Mapping[str, Any]) -> str:
    packed = zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)
    return "deflate;" + base64.b64encode(packed).decode()


def _column(kind: str, name: str) -> str:
    """Id of a column in MLflow's table."""
    return f"{kind}.`{name}`"


def _state(table: StudyTable, view: ViewName) -> dict[str, Any]:
    """The UI's state. All views have the same table and charts and differ in the open section."""
    key, ascending = table.order
    columns = [
        _column("tags", "outcome"),
        *(_column("metrics", name) for name in (*table.objectives, *table.costs)),
        *(_column("params", name) for name in table.params),
    ]
    name = _column("attributes", "Run Name")
    sections = [view] if view != "leaderboard" else ["curves", "pareto", "parallel"]
    return {
        "searchFilter": table.filter,
        "orderByKey": key,
        "orderByAsc": ascending,
        "selectedColumns": columns,
        "columnOrder": [name, *columns, "runDateAndNestInfo", "duration"],
        "columnWidths": {name: 150} | {column: _width(column) for column in columns},
        "runsHiddenMode": "FIRST_20_RUNS" if view in ("leaderboard", "curves") else "SHOW_ALL",
        "isAccordionReordered": True,  # keeps the order of the sections
        "hideEmptyCharts": True,
        "compareRunSections": [
            *(
                _section(key, TITLES[key].capitalize(), key in sections)
                for key in TITLES
                if key != "leaderboard"
            ),
            _section("others", "Model metrics", False),
        ],
        "compareRunCharts": _charts(table),
    }


def _width(column: str) -> int:
    """Width of a column in pixels: wide enough for its heading, limited so that ten columns fit."""
    return max(90, min(125, 8 * len(column.partition(".")[2]) + 24))


def _section(key: str, title: str, is_open: bool) -> dict[str, Any]:
    return {
        "uuid": key,
        "name": title,
        "display": is_open,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }


def _charts(table: StudyTable) -> list[dict[str, Any]]:
    """Charts of all sections. Deleted charts are listed because MLflow adds one for every metric without a chart."""
    curves = [name for name in CURVES if name not in table.objectives]
    constants = [name for name in METRICS if name not in curves and name not in table.objectives]
    charts = [_chart("LINE", "curves", name, **_line(name)) for name in (*table.objectives, *curves)]
    for x, y in _pairs(table):
        axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
        charts.append(_chart("SCATTER", "pareto", f"{y} over {x}", runsCountToCompare=100, **axes))
    chosen = {"selectedParams": list(table.params), "selectedMetrics": list(table.objectives)}
    charts.append(_chart("PARALLEL", "parallel", "searched values", showAllRuns=True, **chosen))
    charts += [_chart("BAR", "others", name, metricKey=name, deleted=True) for name in (*constants, "value")]
    return charts


def _line(metric: str) -> dict[str, Any]:
    return {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "lineSmoothness": 0,
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _pairs(table: StudyTable) -> Iterable[tuple[str, str]]:
    """(x, y) of each scatter chart: the first objective over every other objective and cost."""
    first, *others = table.objectives
    return [(other, first) for other in (*others, *table.costs)]


def _chart(kind: str, section: str, title: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"{section}: {title}",
        "metricSectionId": section,
        "displayName": title,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 20,
    } | fields
