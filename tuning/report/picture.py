"""A plot of a report: a plotly figure with title and explanation, and the common colours, axes and hover texts."""

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from proxytune.tuning.report.formatting import short
from proxytune.tuning.report.history import TrialHistory
from proxytune.tuning.spec.metrics import METRICS
from proxytune.tuning.spec.outcome import Outcome

COLOURS = {  # after Okabe and Ito: distinguishable with any colour vision, and dark enough for thin lines
    Outcome.COMPLETE: "#0072b2",
    Outcome.PRUNED: "#6b7280",
    Outcome.INFEASIBLE: "#8a6d00",
    Outcome.INTERRUPTED: "#c77700",
    Outcome.PAUSED: "#a8842c",
    Outcome.STOPPED: "#2b8fc4",
    Outcome.QUEUED: "#9ca3af",
    Outcome.RUNNING: "#00795c",
    Outcome.DIVERGED: "#c2410c",
    Outcome.OUT_OF_MEMORY: "#a2437f",
    Outcome.FAILED: "#7c2d12",
}
BEST = "#c2410c"


@dataclass(frozen=True)
class Picture:
    """A figure, its title and how to read it. If figure is None, `reading` gives the reason."""

    title: str
    reading: str
    figure: go.Figure | None
    min_width: int = 0  # pixels; a narrower screen scrolls sideways

    def html(self) -> str:
        """The figure as HTML for a page that has loaded plotly, as wide as the page; empty if there is no figure."""
        if self.figure is None:
            return ""
        text: str = self.figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            default_width="100%",
            config={"displaylogo": False, "responsive": True},
        )
        return f"<div style='min-width: {self.min_width}px'>{text}</div>"


def dressed(picture: Picture) -> Picture:
    """The plot with the common layout: white background, legend above the plot, margins for axis titles."""
    if picture.figure is None:
        return picture
    layout = picture.figure.layout
    legend = {} if layout.legend.orientation else {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0}
    picture.figure.update_layout(
        title=None,
        template="plotly_white",
        font={"size": 13, "color": "#1f2937"},
        height=layout.height or 460,
        margin={"t": layout.margin.t or 60, "l": layout.margin.l or 60, "r": layout.margin.r or 20},
        hoverlabel={"align": "left"},
        legend=legend,
    )
    return picture


def label(metric: str) -> str:
    """A metric with its unit."""
    unit = METRICS[metric].unit if metric in METRICS else ""
    return f"{metric} ({unit})" if unit else metric


def hover(trial: TrialHistory, *metrics: str) -> str:
    """Hover text of a trial: outcome, metrics, parameters."""
    lines = [f"<b>trial {trial.number}</b>: {trial.outcome} at step {trial.step:,}"]
    lines += [f"{label(name)} {number(trial.last[name])}" for name in metrics if name in trial.last]
    lines += [
        f"{key.rpartition('.')[2]} = {html.escape(short(value))}" for key, value in trial.params.items()
    ]
    if trial.reason:
        lines.append(html.escape(trial.reason[:100]))
    return "<br>".join(lines)


def number(value: float) -> str:
    """Four decimals below 10, else one."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def log_axis(values: Iterable[float]) -> dict[str, Any]:
    """A logarithmic axis with ticks at 1, 2 and 5 of each decade; plotly labels these with single digits by default."""
    known = [value for value in values if value > 0]
    decades = range(math.floor(math.log10(min(known))), math.ceil(math.log10(max(known))) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return {
        "type": "log",
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def parameter_axis(domain: Mapping[str, Any], values: Iterable[Any]) -> dict[str, Any]:
    """The axis of a searched parameter: categorical for a choice, else linear or logarithmic like its domain."""
    if domain.get("choice") is not None:
        return {"type": "category", "categoryorder": "array", "categoryarray": [*map(str, domain["choice"])]}
    numbers = [value for value in values if isinstance(value, int | float)]
    return log_axis(numbers) if domain.get("log") and numbers else {}
