"""The objective against the searched parameters: importances, slices, contour, parallel coordinates."""

import math
from collections.abc import Iterator
from typing import Any

import optuna.visualization as optuna_plots
import plotly.graph_objects as go
from optuna.importance import get_param_importances
from plotly.subplots import make_subplots

from proxytune.tuning.errors import one_line
from proxytune.tuning.report.history import History, TrialHistory
from proxytune.tuning.report.picture import COLOURS, Picture, hover, label, parameter_axis
from proxytune.tuning.spec.outcome import Outcome

FEWEST_FOR_IMPORTANCES = 10  # complete trials; with fewer, PED-ANOVA reports that memory depends on dropout
SLICES_A_ROW = 3


def importances(history: History, objective: str) -> tuple[dict[str, float], str]:
    """The importance of each parameter, most important first, and ""; or an empty dict and the reason."""
    num_trials = sum(trial.outcome is Outcome.COMPLETE for trial in history.with_metric(objective))
    if num_trials < FEWEST_FOR_IMPORTANCES:
        return {}, f"{num_trials} complete trials; at least {FEWEST_FOR_IMPORTANCES} are needed"
    study = history.optuna_study({objective: history.objectives[objective]})
    try:
        found = get_param_importances(study)
    except (ValueError, RuntimeError) as error:  # all values equal, or no parameter that every trial has
        return {}, one_line(error)
    if not any(math.isfinite(value) and value > 0 for value in found.values()):
        return {}, "no parameter has any influence on the values"
    return dict(found), ""


def parameter_importances(history: History) -> Iterator[Picture]:
    for objective in history.objectives:
        found, reason = importances(history, objective)
        num_trials = sum(trial.outcome is Outcome.COMPLETE for trial in history.with_metric(objective))
        title = f"Parameter importances: {objective}"
        if not found:
            yield Picture(title, f"No importances: {reason}.", None)
            continue
        names, values = list(found)[::-1], list(found.values())[::-1]
        bars = go.Bar(
            x=values,
            y=[name.rpartition(".")[2] for name in names],
            orientation="h",
            marker_color=COLOURS[Outcome.COMPLETE],
            text=[f"{value:.2f}" for value in values],
            customdata=names,
            hovertemplate="%{customdata}: %{x:.3f}<extra></extra>",
        )
        figure = go.Figure(bars)
        figure.update_layout(xaxis_title="importance (sums to 1)", height=140 + 42 * len(names))
        figure.update_yaxes(automargin=True)
        yield Picture(
            title,
            "How much each parameter decides whether a complete trial is among the best, by Optuna's PED-ANOVA, from "
            f"{num_trials} trials. Below about 30 trials it is only an indication.",
            figure,
        )


def slices(history: History) -> Iterator[Picture]:
    for objective in history.objectives:
        shown = history.with_metric(objective)
        keys = [key for key in history.domains if any(key in trial.params for trial in shown)]
        if len(shown) < 2 or not keys:
            continue
        num_rows = math.ceil(len(keys) / SLICES_A_ROW)
        figure = make_subplots(
            rows=num_rows, cols=min(SLICES_A_ROW, len(keys)), shared_yaxes=True, horizontal_spacing=0.03
        )
        named: set[str] = set()
        for position, key in enumerate(keys):
            row, column = divmod(position, SLICES_A_ROW)
            place = {"row": row + 1, "col": column + 1}
            for trace in _slice(history, shown, key, objective):
                trace.showlegend = trace.name not in named
                named.add(trace.name)
                figure.add_trace(trace, **place)
            values = [trial.params[key] for trial in shown if key in trial.params]
            name = key.rpartition(".")[2]
            figure.update_xaxes(title=name, **parameter_axis(history.domains[key], values), **place)
            if column == 0:
                figure.update_yaxes(title=label(objective), **place)
        figure.update_layout(height=130 + 310 * num_rows)
        yield Picture(
            f"Slices: {objective}",
            "The objective against each parameter alone. Hollow points are the last values of trials that ended before "
            "their full budget.",
            figure,
            min_width=260 * min(SLICES_A_ROW, len(keys)),
        )


def _slice(history: History, shown: list[TrialHistory], key: str, objective: str) -> Iterator[go.Scatter]:
    categorical = history.domains[key].get("choice") is not None
    for outcome, colour in COLOURS.items():
        group = [trial for trial in shown if trial.outcome is outcome and key in trial.params]
        if group:
            values = [trial.params[key] for trial in group]
            yield go.Scatter(
                x=[str(value) for value in values] if categorical else values,
                y=[trial.last[objective] for trial in group],
                text=[hover(trial, objective) for trial in group],
                mode="markers",
                name=str(outcome),
                legendgroup=outcome,
                marker={
                    "color": colour,
                    "size": 8,
                    "symbol": "circle" if outcome is Outcome.COMPLETE else "circle-open",
                },
                hovertemplate="%{text}<extra></extra>",
            )


def contour(history: History) -> Iterator[Picture]:
    """The objective over the two most important parameters."""
    for objective, direction in history.objectives.items():
        found, _ = importances(history, objective)
        complete = [trial for trial in history.with_metric(objective) if trial.outcome is Outcome.COMPLETE]
        varying = [key for key in found if len({trial.params.get(key) for trial in complete}) > 1]
        if len(varying) < 2:
            continue
        figure = optuna_plots.plot_contour(
            history.optuna_study({objective: direction}), params=varying[:2], target_name=label(objective)
        )
        figure.update_layout(height=520, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
        yield Picture(
            f"Contour: {objective}",
            f"The objective over the two most important parameters, {varying[0]} and {varying[1]}, interpolated between "
            "complete trials (points).",
            figure,
        )


def parallel_coordinates(history: History) -> Iterator[Picture]:
    for objective, direction in history.objectives.items():
        shown = history.with_metric(objective)
        if len(shown) < 2:
            continue
        keys = [key for key in history.domains if all(key in trial.params for trial in shown)]
        dimensions = [_dimension(history.domains[key], key, [t.params[key] for t in shown]) for key in keys]
        values = [trial.last[objective] for trial in shown]
        dimensions += [
            {"label": "steps trained", "values": [trial.step for trial in shown]},
            {"label": objective, "values": values},
        ]
        lines = go.Parcoords(
            dimensions=dimensions,
            line={
                "color": values,
                "colorscale": "Viridis",
                "reversescale": direction == "minimize",
                "showscale": True,
                "colorbar": {"title": {"text": label(objective), "side": "right"}},
            },
            labelangle=-20,
            labelside="bottom",
        )
        figure = go.Figure(lines)
        figure.update_layout(margin={"l": 70, "r": 40, "t": 40}, height=480)
        figure.update_layout(margin_b=110)
        yield Picture(
            f"Parallel coordinates: {objective}",
            "One line for each trial through its parameters, its number of steps and its last value, which is also its "
            "colour (yellow is better). Drag along an axis to select a range. Trials that ended early have fewer steps.",
            figure,
            min_width=130 * len(dimensions),
        )


def _dimension(domain: dict[str, Any], key: str, values: list[Any]) -> dict[str, Any]:
    """One axis: a choice by position, a logarithmic range by its logarithm."""
    name = key.rpartition(".")[2]
    if domain.get("choice") is not None:
        texts = [*map(str, domain["choice"])]
        places = [texts.index(str(value)) for value in values]
        return {"label": name, "values": places, "tickvals": [*range(len(texts))], "ticktext": texts}
    if domain.get("log"):
        low, high = min(values), max(values)
        ticks = [low * (high / low) ** (step / 4) for step in range(5)] if high > low else [low]
        texts = [f"{tick:.3g}" for tick in ticks]
        logs = [math.log10(value) for value in values]
        return {"label": name, "values": logs, "tickvals": [*map(math.log10, ticks)], "ticktext": texts}
    return {"label": name, "values": values}
