"""The index of a Pareto front's folders: the same table as Markdown and as a page with a plot."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from proxytune.tuning.export.choose import Selection
from proxytune.tuning.export.records import TrialRecord
from proxytune.tuning.report.page import STYLE
from proxytune.tuning.report.plots import label

INDEX, PAGE = "index.md", "index.html"


def point_name(number: int) -> str:
    """The folder of a trial in a front."""
    return f"trial-{number:04d}"


def write_index(
    folder: Path, study: str, records: Sequence[TrialRecord], selections: Sequence[Selection]
) -> None:
    """Write index.md and index.html into the folder that holds the points' folders.

    Raises:
        OSError: the disk refuses.
    """
    objectives = selections[0].objectives
    first, direction = next(iter(objectives.items()))
    points = sorted(
        (records[one.trial] for one in selections),
        key=lambda one: one.metrics[first],
        reverse=direction == "maximize",
    )
    params = sorted({key for one in points for key in one.params})
    head = ["trial", *map(label, objectives), *(key.rpartition(".")[2] for key in params)]
    rows = [
        [
            point_name(one.trial),
            *(f"{one.metrics[name]:.4f}" for name in objectives),
            *(_short(one.params.get(key, "")) for key in params),
        ]
        for one in points
    ]
    directions = ", ".join(f"{name} ({direction})" for name, direction in objectives.items())
    reading = (
        f"{len(points)} of {len(records)} trials: those of the full budget, within the constraints, that no other "
        f"one dominates in {directions}. One seed each; every folder runs by itself and has a card."
    )
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| [{name}]({name}/card.md) | {' | '.join(cells)} |" for name, *cells in rows]
    text = f"# Pareto front of study {study}\n\n{reading}\n\n" + "\n".join(lines) + "\n"
    (folder / INDEX).write_text(text, encoding="utf-8")
    (folder / PAGE).write_text(_page(study, reading, head, rows, _plot(records, points, list(objectives))))


def _page(
    study: str, reading: str, head: Sequence[str], rows: Sequence[Sequence[str]], figure: go.Figure
) -> str:
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        f'<tr><td><a href="{name}/card.md">{name}</a></td>'
        + "".join(f"<td class=number>{html.escape(value)}</td>" for value in values)
        + "</tr>"
        for name, *values in rows
    )
    title = f"Pareto front of study {html.escape(study)}"
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{title}</title><style>{STYLE}</style></head>"
        f"<body><h1>{title}</h1><p class=reading>{html.escape(reading)}</p>"
        f"<table><tr>{cells}</tr>{body}</table>{figure.to_html(full_html=False)}</body></html>"
    )


def _plot(
    records: Sequence[TrialRecord], points: Sequence[TrialRecord], objectives: Sequence[str]
) -> go.Figure:
    """The first two objectives, the front told from the other eligible trials by colour."""
    x, y = objectives[1], objectives[0]
    chosen = {one.trial for one in points}
    figure = go.Figure()
    for name, colour, shown in (
        (
            "other eligible trials",
            "#8d99a6",
            [one for one in records if one.eligible and one.trial not in chosen],
        ),
        ("the front", "#d62728", sorted(points, key=lambda one: one.metrics[x])),
    ):
        known = [one for one in shown if x in one.metrics and y in one.metrics]
        figure.add_trace(
            go.Scatter(
                x=[one.metrics[x] for one in known],
                y=[one.metrics[y] for one in known],
                text=[f"trial {one.trial}" for one in known],
                mode="markers",
                name=name,
                marker={"color": colour, "size": 9},
            )
        )
    return figure.update_layout(
        template="plotly_white", xaxis_title=label(x), yaxis_title=label(y), height=460
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
