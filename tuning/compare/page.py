"""A comparison on paper: its tables as text, Markdown, CSV and HTML, and its picture; published figures stand apart."""

import csv
import html
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from proxytune.tuning.compare.compare import Comparison, Row
from proxytune.tuning.compare.published import PROXYFORMER, PUBLISHED, TASKS
from proxytune.tuning.report.page import STYLE

HEAD = (
    "task",
    "mechanism",
    "study",
    "accuracy",
    "95 % interval",
    "seeds",
    "basis",
    "test",
    "steps",
    "MiB/sequence",
    "train seq/s",
    "inference seq/s",
)
WORDS = ("task", "mechanism", "study", "basis", "method")  # columns that are not figures
WIDE = "body { max-width: 1500px } td.number, th.number { text-align: right; white-space: nowrap }"
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf", "#7f7f7f")


def cells(row: Row) -> tuple[str, ...]:
    """A row as HEAD says."""
    test = "" if row.test_accuracy is None else f"{row.test_accuracy:.4f}"
    if row.test_openings > 1:
        test += f" (opened {row.test_openings} times)"
    return (
        row.task,
        row.mechanism,
        row.study,
        f"{row.accuracy:.4f}",
        "" if row.interval is None else "{:.4f} to {:.4f}".format(*row.interval),
        str(row.seeds),
        row.basis,
        test,
        f"{row.steps:,}",
        _figure(row.memory_mib, row.memory_to_softmax),
        _figure(row.train_per_second, row.train_to_softmax),
        _figure(row.inference_per_second, row.inference_to_softmax),
    )


def _figure(value: float | None, to_softmax: float | None) -> str:
    """A figure, and in brackets how many times softmax's it is."""
    if value is None:
        return ""
    if to_softmax is None:
        return f"{value:.4g}"
    return f"{value:.4g} ({to_softmax:.2f}x)" if to_softmax >= 0.1 else f"{value:.4g} ({to_softmax:.3f}x)"


Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, head, rows."""


def published_tables(tasks: Sequence[str]) -> list[Table]:
    """What others print for these tasks (names with or without options), a table for each source."""
    columns = [task for task in TASKS if any(name.split(" ")[0] == task for name in tasks)]
    if not columns:
        return []
    return [
        (
            f"{table.source} ({table.protocol})",
            ("method", *columns),
            [
                (method, *(f"{values[TASKS.index(task)]:.2f}" for task in columns))
                for method, values in table.rows.items()
            ],
        )
        for table in PUBLISHED
    ]


def as_markdown(comparison: Comparison) -> str:
    """Ours, the notes, then the published ones under a heading of their own."""
    lines = ["## Measured by proxytune", "", *_markdown(HEAD, [cells(row) for row in comparison.rows]), ""]
    lines += [f"- {note}" for note in comparison.notes]
    lines += ["", "## Published by others: test accuracy in %, under their own protocols", ""]
    for title, head, rows in published_tables([row.task for row in comparison.rows]):
        lines += [title, "", *_markdown(head, rows), ""]
    return "\n".join([*lines, PROXYFORMER, ""])


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def as_csv(comparison: Comparison) -> str:
    """Ours alone, a row each, all figures in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in comparison.rows:
        low_high = "" if row.interval is None else "{} {}".format(*row.interval)
        writer.writerow(asdict(row) | {"interval": low_high})
    return text.getvalue()


def as_html(comparison: Comparison) -> str:
    """One page that needs nothing else: tables and picture."""
    picture = figure(comparison.rows).to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False}
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in comparison.notes)
    others = "".join(
        f"<h3>{html.escape(title)}</h3>{_html(head, rows)}"
        for title, head, rows in published_tables([row.task for row in comparison.rows])
    )
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>Comparison</title><style>{STYLE}{WIDE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body><h1>Comparison of mechanisms</h1>"
        f"<div class=wide>{_html(HEAD, [cells(row) for row in comparison.rows])}</div><ul>{notes}</ul>"
        "<h2>Accuracy against cost</h2><p class=reading>Up and to the left is better against memory, up and to the "
        "right against throughput. Bars are 95 % intervals over seeds; a point without one is a single training.</p>"
        f"<div class=wide>{picture}</div>"
        "<h2>Published by others</h2><p class=reading>Test accuracy in percent under their own protocols: not "
        f"measured here, and comparable with the table above in tendency only. {html.escape(PROXYFORMER)}</p>"
        f"{others}</body></html>"
    )


def _html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, texts: Sequence[str]) -> str:
        kinds = ["" if name in WORDS else " class=number" for name in head]
        return f"<tr>{''.join(f'<{tag}{kind}>{html.escape(text)}</{tag}>' for kind, text in zip(kinds, texts, strict=True))}</tr>"

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"


def figure(rows: Sequence[Row]) -> go.Figure:
    """Accuracy against memory, and against training throughput where it was measured; a line of panels for each task."""
    tasks = sorted({row.task for row in rows})
    costs = [("memory_mib", "MiB a sequence, training (log scale)")]
    if any(row.train_per_second for row in rows):
        costs.append(("train_per_second", "training sequences/s (log scale)"))
    drawing = make_subplots(
        rows=len(tasks), cols=len(costs), row_titles=tasks, shared_yaxes=True, horizontal_spacing=0.04
    )
    colours = dict(zip(sorted({row.mechanism for row in rows}), COLOURS * len(rows), strict=False))
    named: set[str] = set()
    for line, task in enumerate(tasks, start=1):
        for column, (cost, title) in enumerate(costs, start=1):
            for row in rows:
                if row.task == task and getattr(row, cost):
                    drawing.add_trace(
                        _point(row, cost, colours[row.mechanism], legend=row.mechanism not in named),
                        line,
                        column,
                    )
                    named.add(row.mechanism)
            shown = [getattr(row, cost) for row in rows if row.task == task and getattr(row, cost)]
            drawing.update_xaxes(type="log", title=title, tickvals=_ticks(shown), row=line, col=column)
        drawing.update_yaxes(title="validation accuracy", row=line, col=1)
    return drawing.update_layout(
        template="plotly_white", font={"size": 13}, height=120 + 340 * len(tasks), margin={"t": 40}
    )


def _ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times each power of ten around the values."""
    powers = range(
        math.floor(math.log10(min(values, default=1))), math.ceil(math.log10(max(values, default=1))) + 1
    )
    return [factor * 10.0**power for power in powers for factor in (1, 2, 5)]


def _point(row: Row, cost: str, colour: str, *, legend: bool) -> go.Scatter:
    low, high = row.interval or (row.accuracy, row.accuracy)
    return go.Scatter(
        x=[getattr(row, cost)],
        y=[row.accuracy],
        error_y={
            "array": [high - row.accuracy],
            "arrayminus": [row.accuracy - low],
            "visible": row.interval is not None,
        },
        mode="markers",
        marker={"size": 11, "color": colour, "symbol": "circle" if row.interval else "circle-open"},
        name=row.mechanism,
        legendgroup=row.mechanism,
        showlegend=legend,
        hovertemplate=f"{html.escape(row.mechanism)}, study {html.escape(row.study)}<br>%{{x:.4g}}, %{{y:.4f}}<br>"
        f"{html.escape(row.basis)}, {row.seeds} seed{'s' * (row.seeds > 1)}<extra></extra>",
    )
