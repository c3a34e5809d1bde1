"""Timeline of trials on workers."""

from collections.abc import Iterator

import plotly.graph_objects as go

from proxytune.tuning.report.history import History, TrialHistory
from proxytune.tuning.report.picture import COLOURS, Picture, hover
from proxytune.tuning.spec.outcome import Outcome


def timeline(history: History) -> Iterator[Picture]:
    placements = [(trial, placement) for trial in history.trials.values() for placement in trial.placements]
    if not placements:
        return
    start_ms = min(placement.start_ms for _, placement in placements)
    span_ms = max(placement.end_ms for _, placement in placements) - start_ms
    unit, divisor = _time_unit(span_ms)
    workers = list(
        dict.fromkeys(
            placement.worker for _, placement in sorted(placements, key=lambda pair: pair[1].start_ms)
        )
    )
    row = {worker: f"worker {number} ({worker})" for number, worker in enumerate(workers, start=1)}
    figure = go.Figure()
    for outcome, colour in COLOURS.items():
        group = [
            (trial, placement)
            for trial, placement in placements
            if _outcome_of_placement(trial, placement) == outcome
        ]
        if group:
            figure.add_trace(
                go.Bar(
                    base=[(placement.start_ms - start_ms) / divisor for _, placement in group],
                    x=[(placement.end_ms - placement.start_ms) / divisor for _, placement in group],
                    y=[row[placement.worker] for _, placement in group],
                    text=[str(trial.number) for trial, _ in group],
                    textposition="inside",
                    insidetextanchor="middle",
                    textangle=0,
                    hovertext=[hover(trial) for trial, _ in group],
                    hovertemplate="%{hovertext}<extra></extra>",
                    orientation="h",
                    name=str(outcome),
                    marker={"color": colour, "line": {"color": "white", "width": 0.5}},
                )
            )
    figure.update_layout(
        barmode="overlay",
        xaxis_title=f"{unit} since the first start",
        yaxis={"autorange": "reversed", "automargin": True, "title": ""}
        | {"categoryorder": "array", "categoryarray": list(row.values())},
        height=max(300, 140 + 34 * len(workers)),
        uniformtext={"minsize": 8, "mode": "hide"},
    )
    yield Picture(
        "Timeline of trials on workers",
        "One row for each worker process (node, process id), one bar for each placement of a trial there, with its number "
        "where it fits; gaps are time without work.",
        figure,
    )


def _outcome_of_placement(trial: TrialHistory, placement: object) -> Outcome:
    """The outcome of a placement. Only the last one has the trial's outcome."""
    return trial.outcome if placement is trial.placements[-1] else Outcome.INTERRUPTED


def _time_unit(span_ms: float) -> tuple[str, float]:
    for unit, divisor in (("days", 86_400_000.0), ("hours", 3_600_000.0), ("minutes", 60_000.0)):
        if span_ms > 3 * divisor:
            return unit, divisor
    return "seconds", 1000.0
