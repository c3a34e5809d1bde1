"""A comparison as Markdown and as an HTML page with plots; published figures are in separate tables."""

import html
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from proxytune.tuning.compare.published import PROXYFORMER, PUBLISHED, TASKS
from proxytune.tuning.compare.row import Comparison, Row
from proxytune.tuning.report.page import page
from proxytune.tuning.report.picture import Picture, dressed, log_axis

HEAD = (
    "task",
    "mechanism",
    "configuration",
    "study",
    "accuracy",
    "95 % interval",
    "seeds",
    "difference",
    "basis",
    "test",
    "steps",
    "MiB/sequence",
    "train seq/s",
    "inference seq/s",
)
WORDS = ("task", "mechanism", "configuration", "study", "basis", "method")  # columns of text
COLOURS = ("#0072b2", "#c2410c", "#00795c", "#a2437f", "#c77700", "#6b7280", "#2b8fc4", "#7c2d12", "#1f2937")
MIN_SPAN = 8  # minimum span of the accuracy axis, in standard errors of the evaluation


def cells(row: Row) -> tuple[str, ...]:
    """The cells of a row, in the order of HEAD."""
    return (
        row.task,
        row.mechanism,
        row.configuration,
        row.study,
        f"{row.accuracy:.4f}" + ("" if row.evaluation_error is None else f" ± {row.evaluation_error:.4f}"),
        "" if row.interval is None else "{:.4f} to {:.4f}".format(*row.interval),
        str(len(row.by_seed)),
        _difference(row),
        row.basis,
        _test(row),
        f"{row.steps:,}",
        _figure(row.memory_mib, row.memory_to_softmax),
        _figure(row.train_per_second, row.train_to_softmax),
        _figure(row.inference_per_second, row.inference_to_softmax),
    )


def _difference(row: Row) -> str:
    if row.difference is None:
        return ""
    bounds = (
        "" if row.difference.interval is None else " ({:+.4f} to {:+.4f})".format(*row.difference.interval)
    )
    return f"{row.difference.mean:+.4f}{bounds}"


def _test(row: Row) -> str:
    if row.test_accuracy is None:
        return ""
    bounds = "" if row.test_interval is None else " ({:.4f} to {:.4f})".format(*row.test_interval)
    again = f" (opened {row.test_openings} times)" if row.test_openings > 1 else ""
    return f"{row.test_accuracy:.4f}{bounds}{again}"


def _figure(value: float | None, to_softmax: float | None) -> str:
    """A figure, with its ratio to softmax in parentheses."""
    if value is None:
        return ""
    if to_softmax is None:
        return f"{value:.4g}"
    return f"{value:.4g} ({to_softmax:.2f}x)" if to_softmax >= 0.1 else f"{value:.4g} ({to_softmax:.3f}x)"


Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, head, rows."""


def published_tables(tasks: Sequence[str]) -> list[Table]:
    """Published figures for these tasks (names with or without options), one table per source."""
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
    """The measured rows, the notes, and the published figures under a separate heading."""
    lines = ["## Measured by proxytune", "", *_markdown(HEAD, [cells(row) for row in comparison.rows]), ""]
    lines += [f"- {note}" for note in comparison.notes]
    lines += ["", "## Published by others: test accuracy in %, under their own protocols", ""]
    for title, head, rows in published_tables([row.task for row in comparison.rows]):
        lines += [title, "", *_markdown(head, rows), ""]
    return "\n".join([*lines, PROXYFORMER, ""])


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def as_html(comparison: Comparison) -> str:
    """A self-contained page with tables and plots."""
    rows = comparison.rows
    tasks = sorted({row.task for row in rows})
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in comparison.notes)
    picture = dressed(Picture("", "", figure(rows), min_width=700))
    others = "".join(
        f"<h3>{html.escape(title)}</h3>{_html(head, lines)}" for title, head, lines in published_tables(tasks)
    )
    return page(
        "Comparison",
        [
            f"{_html(HEAD, [cells(row) for row in rows])}<ul>{notes}</ul>",
            "<h2>Accuracy against cost</h2><p class=reading>Against memory, up and to the left is better; against "
            "throughput, up and to the right. Thick bars are 95 % intervals over seeds, thin bars 1.96 binomial standard "
            "errors of the evaluation; hollow points are single trainings. The accuracy axis spans at least "
            f"{MIN_SPAN} of these errors, so that noise does not look like a difference.</p>"
            f"<div class=wide>{picture.html()}</div>",
            "<h2>Published by others</h2><p class=reading>Test accuracy in percent under their own protocols: not "
            "measured here, and only roughly comparable with the table above. "
            f"{html.escape(PROXYFORMER)}</p>{others}",
        ],
    )


def _html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, texts: Sequence[str]) -> str:
        kinds = ["" if name in WORDS else " class=number" for name in head]
        return f"<tr>{''.join(f'<{tag}{kind}>{html.escape(text)}</{tag}>' for kind, text in zip(kinds, texts, strict=True))}</tr>"

    return (
        f"<div class=wide><table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table></div>"
    )


def figure(rows: Sequence[Row]) -> go.Figure:
    """Accuracy against memory, and against training throughput if measured; one row of panels per task."""
    tasks = sorted({row.task for row in rows})
    costs = [("memory_mib", "MiB per sequence, training (log scale)")]
    if any(row.train_per_second for row in rows):
        costs.append(("train_per_second", "training sequences/s (log scale)"))
    drawing = make_subplots(
        rows=len(tasks), cols=len(costs), row_titles=tasks, shared_yaxes=True, horizontal_spacing=0.04
    )
    names = list(dict.fromkeys(row.name for row in rows))
    colours = {name: COLOURS[position % len(COLOURS)] for position, name in enumerate(names)}
    named: set[str] = set()
    for line, task in enumerate(tasks, start=1):
        own = [row for row in rows if row.task == task]
        for column, (cost, title) in enumerate(costs, start=1):
            shown = [row for row in own if getattr(row, cost)]
            for row in shown:
                for trace in _point(row, cost, colours[row.name], legend=row.name not in named):
                    drawing.add_trace(trace, line, column)
                named.add(row.name)
            axis = log_axis([getattr(row, cost) for row in shown]) if shown else {}
            drawing.update_xaxes(title=title, row=line, col=column, **axis)
            drawing.update_yaxes(range=accuracy_range(own), row=line, col=column)
        drawing.update_yaxes(title="validation accuracy", row=line, col=1)
    return drawing.update_layout(height=150 + 340 * len(tasks))


def accuracy_range(rows: Sequence[Row]) -> list[float]:
    """The accuracy axis: every interval, and at least MIN_SPAN standard errors of the evaluation (0.05 if unknown)."""
    bounds = [bound for row in rows for bound in (*(row.interval or ()), row.accuracy)]
    errors = [row.evaluation_error for row in rows if row.evaluation_error is not None]
    low, high = min(bounds), max(bounds)
    span = max(1.1 * (high - low), MIN_SPAN * max(errors) if errors else 0.05)
    middle = (low + high) / 2
    return [max(0.0, middle - span / 2), min(1.0, middle + span / 2)]


def _point(row: Row, cost: str, colour: str, *, legend: bool) -> list[go.Scatter]:
    """Traces of a row: a thin bar for the evaluation's error, and the point with its interval over seeds."""
    x, y = [getattr(row, cost)], [row.accuracy]
    low, high = row.interval or (row.accuracy, row.accuracy)
    error = 1.96 * (row.evaluation_error or 0.0)
    words = "<br>".join(
        [
            f"<b>{html.escape(row.name)}</b>, study {html.escape(row.study)}",
            f"accuracy {row.accuracy:.4f}" + (f" ({low:.4f} to {high:.4f})" if row.interval else ""),
            f"{getattr(row, cost):.4g} {'MiB per sequence' if cost == 'memory_mib' else 'sequences/s'}",
            f"{html.escape(row.basis)}, {len(row.by_seed)} seed{'s' * (len(row.by_seed) != 1)}",
        ]
    )
    thin = go.Scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"size": 1, "color": colour},
        error_y={"array": [error], "visible": error > 0, "thickness": 1, "width": 6, "color": colour},
        legendgroup=row.name,
        showlegend=False,
        hoverinfo="skip",
    )
    point = go.Scatter(
        x=x,
        y=y,
        error_y={
            "array": [high - row.accuracy],
            "arrayminus": [row.accuracy - low],
            "visible": row.interval is not None,
            "thickness": 3,
            "width": 0,
        },
        mode="markers",
        marker={"size": 11, "color": colour, "symbol": "circle" if row.interval else "circle-open"},
        name=row.name,
        legendgroup=row.name,
        showlegend=legend,
        hovertemplate=f"{words}<extra></extra>",
    )
    return [thin, point]
