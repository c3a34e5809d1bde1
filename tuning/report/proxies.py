"""Cosine similarity of the proxies of each trial against the contrastive temperature."""

import math
from collections.abc import Iterator

import plotly.graph_objects as go

from proxytune.tuning.report.history import History
from proxytune.tuning.report.picture import Picture, hover, label, log_axis
from proxytune.tuning.spec.outcome import Outcome

TEMPERATURE = "model.contrastive_temperature"


def proxy_cosines(history: History) -> Iterator[Picture]:
    objective = next(iter(history.objectives), "val_accuracy")
    shown = [
        trial
        for trial in history.trials.values()
        if "proxy_cosine" in trial.last and TEMPERATURE in trial.params and objective in trial.last
    ]
    if len(shown) < 2:
        return
    figure = go.Figure()
    for is_complete, symbol in ((True, "circle"), (False, "circle-open")):
        group = [trial for trial in shown if (trial.outcome is Outcome.COMPLETE) == is_complete]
        figure.add_trace(
            go.Scatter(
                x=[trial.params[TEMPERATURE] for trial in group],
                y=[trial.last["proxy_cosine"] for trial in group],
                text=[hover(trial, "proxy_cosine", objective) for trial in group],
                mode="markers",
                name="complete" if is_complete else "ended earlier",
                marker={
                    "symbol": symbol,
                    "size": 9,
                    "color": [trial.last[objective] for trial in group],
                    "coloraxis": "coloraxis",
                },
                hovertemplate="%{text}<extra></extra>",
            )
        )
    finite = [trial.last[objective] for trial in shown if math.isfinite(trial.last[objective])]
    span = {"cmin": min(finite), "cmax": max(finite)} if len(set(finite)) > 1 else {}
    figure.update_layout(
        xaxis=log_axis([trial.params[TEMPERATURE] for trial in shown])
        | {"title": "contrastive temperature (log scale)"},
        yaxis_title="proxy_cosine",
        coloraxis={
            "colorscale": "Viridis",
            "colorbar": {"title": {"text": label(objective), "side": "right"}},
        }
        | span,
        legend={"orientation": "h", "y": 1.08},
    )
    yield Picture(
        "Proxy cosine against contrastive temperature",
        "Mean off-diagonal |cosine| of the proxies at each trial's last report: 0 means that they point in different "
        "directions, 1 that they have collapsed into one. The colour is the objective at that report.",
        figure,
    )
