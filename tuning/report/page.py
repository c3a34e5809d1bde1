"""A study's report: one HTML file that needs nothing else, with its standing, its best trials and its pictures."""

import html
import math
import os
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from proxytune.tuning.errors import InputError
from proxytune.tuning.report.formatting import flat, short
from proxytune.tuning.report.history import History, read_history
from proxytune.tuning.report.plots import dressed, label, pareto_front, pictures
from proxytune.tuning.spec.outcome import Outcome

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 0.5em 0 1.5em }
td, th { border: 1px solid #ccc; padding: 0.25em 0.7em; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
h2 { margin-top: 2em; border-top: 1px solid #ddd; padding-top: 1em }
div.wide { overflow-x: auto }
p.reading { color: #555; max-width: 60em }
"""
NUM_BEST = 10  # trials in the table


def write_report(outbox_folder: Path, path: Path) -> None:
    """Write the report of the study whose outbox this is, in one step.

    Raises:
        InputError: the outbox holds no study.
        OSError: the file cannot be written.
    """
    _write(path, report_page(read_history(outbox_folder)))


def write_pareto_front(outbox_folder: Path, path: Path) -> None:
    """Write the Pareto front alone (one objective: against the memory of training) as an HTML file, in one step.

    Raises:
        InputError: the outbox holds no study, or fewer than two trials are complete.
        OSError: the file cannot be written.
    """
    history = read_history(outbox_folder)
    picture = next(pareto_front(history), None)
    if picture is None:
        raise InputError(f"study {history.name} has no two complete trials to draw yet; run it further")
    figure = dressed(picture).figure.update_layout(
        title=f"{history.name}: {picture.title}<br><sup>{picture.reading}</sup>", margin={"t": 90}
    )
    _write(path, figure.to_html())


def _write(path: Path, page: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as temporary:
        temporary.write(page)
    os.chmod(temporary.name, 0o644)
    os.replace(temporary.name, path)


def report_page(history: History) -> str:
    """The whole page."""
    sections = [
        f"<h2>{html.escape(picture.title)}</h2><p class=reading>{html.escape(picture.reading)}</p><div class=wide>"
        + picture.figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
        + "</div>"
        for picture in pictures(history)
    ]
    name = html.escape(history.name)
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{name}</title><style>{STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body><h1>Study {name}</h1>"
        f"{_standing(history)}{_best(history)}{''.join(sections)}{_facts(history)}</body></html>"
    )


def _standing(history: History) -> str:
    counters = history.counters
    outcomes = dict.fromkeys((Outcome.COMPLETE, Outcome.PRUNED), 0)
    for trial in history.trials.values():
        outcomes[trial.outcome] = outcomes.get(trial.outcome, 0) + 1
    rows = [
        (
            "objectives",
            ", ".join(f"{direction} {label(name)}" for name, direction in history.objectives.items()),
        ),
        *((f"constraint on {label(metric)}", rule) for metric, rule in history.counters.constraints.items()),
        ("status", f"{history.status}, {_moment(history.start_ms)} to {_moment(history.last_ms)}"),
        ("trials", f"{len(history.trials)} of {counters.budget or '?'}"),
        *((f"… {outcome}", str(count)) for outcome, count in outcomes.items()),
        ("steps trained", f"{counters.steps:,}"),
        (
            "time in trials",
            f"{counters.cpu_seconds / 3600:.2f} CPU-hours, {counters.gpu_seconds / 3600:.2f} GPU-hours",
        ),
        *(("damaged journal", problem) for problem in history.problems),
    ]
    return _table((), rows)


def _moment(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _best(history: History) -> str:
    """The winner and those behind it; with several objectives the Pareto front."""
    objective, direction = next(iter(history.objectives.items()))
    complete = [
        trial
        for trial in history.trials.values()
        if trial.outcome is Outcome.COMPLETE
        and objective in trial.last
        and history.counters.feasible(trial.last)
    ]
    if not complete:
        rule = " within the constraints" if history.counters.constraints else ""
        return f"<p>No trial has reached the full budget{rule} yet.</p>"
    title = f"Best complete trials by {objective}"
    if len(history.objectives) > 1:
        front = {trial.number for trial in history.optuna_study(history.objectives).best_trials}
        complete = [trial for trial in complete if trial.number in front]
        title = f"Pareto front, by {objective}"
    complete.sort(key=lambda trial: trial.last[objective], reverse=direction == "maximize")
    params = list(dict.fromkeys(key for trial in complete for key in trial.params))
    head = ("trial", *map(label, history.objectives), *(key.rpartition(".")[2] for key in params))
    rows = [
        (
            f"{trial.number:04d}",
            *(_value(trial.last.get(name, math.nan)) for name in history.objectives),
            *(short(trial.params.get(key, "")) for key in params),
        )
        for trial in complete[:NUM_BEST]
    ]
    more = f"<p class=reading>and {len(complete) - NUM_BEST} more.</p>" if len(complete) > NUM_BEST else ""
    return f"<h2>{html.escape(title)}</h2>{_table(head, rows)}{more}"


def _value(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def _facts(history: History) -> str:
    facts = [
        (key, str(value)) for key, value in flat(history.facts, depth=3).items() if value not in (None, "")
    ]
    spec = [
        (key, str(value)) for key, value in flat(history.spec, depth=3).items() if value not in (None, "")
    ]
    return (
        "<h2>How it was run</h2>" + _table((), facts) + "<h2>The study file, resolved</h2>" + _table((), spec)
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"] if head else []
    for row in rows:
        cells = (
            f"<td{' class=number' if head and cell.replace('.', '').replace(',', '').isdigit() else ''}>{html.escape(cell)}</td>"
            for cell in row
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"
