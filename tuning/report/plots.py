"""The pictures of a study, as plotly figures with a title, units on the axes and a sentence that says how to read it."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import optuna.visualization as optuna_plots
import plotly.graph_objects as go

from proxytune.tuning.journal.counters import rung_steps
from proxytune.tuning.report.formatting import short
from proxytune.tuning.report.history import History, TrialHistory
from proxytune.tuning.spec.metrics import MEMORY, METRICS
from proxytune.tuning.spec.outcome import Outcome

COLOURS = {
    Outcome.COMPLETE: "#1f77b4",
    Outcome.PRUNED: "#8d99a6",
    Outcome.INTERRUPTED: "#e8a33d",
    Outcome.PAUSED: "#f2c879",
    Outcome.STOPPED: "#17becf",
    Outcome.RUNNING: "#2ca02c",
    Outcome.DIVERGED: "#d62728",
    Outcome.OUT_OF_MEMORY: "#9467bd",
    Outcome.FAILED: "#8c564b",
}
FRONT = {  # what Optuna calls a group of trials: its name here, its colour
    "Best Trial": ("the front", "#d62728"),
    "Infeasible Trial": ("break a constraint", "#e8a33d"),
}
FEWEST_FOR_IMPORTANCES = 10  # complete trials; below, PED-ANOVA finds memory to depend on dropout
TEMPERATURE = "model.contrastive_temperature"


@dataclass(frozen=True)
class Picture:
    """One figure, what it is called, and how to read it."""

    title: str
    reading: str
    figure: go.Figure


def pictures(history: History) -> Iterator[Picture]:
    """Every picture that the study has the data for."""
    for draw in (
        optimisation_history,
        learning_curves,
        parameter_importances,
        parallel_coordinates,
        slices,
        pareto_front,
        proxy_cosines,
        timeline,
    ):
        for picture in draw(history):
            yield dressed(picture)


def label(metric: str) -> str:
    """A metric with its unit."""
    unit = METRICS[metric].unit if metric in METRICS else ""
    return f"{metric} ({unit})" if unit else metric


def _ended(history: History, *outcomes: Outcome) -> list[TrialHistory]:
    return [trial for trial in history.trials.values() if trial.outcome in outcomes]


def _complete_with(history: History, objective: str) -> list[TrialHistory]:
    """The trials that Optuna's pictures of the objective can show."""
    return [trial for trial in _ended(history, Outcome.COMPLETE) if objective in trial.last]


def optimisation_history(history: History) -> Iterator[Picture]:
    for objective, direction in history.objectives.items():
        if not _complete_with(history, objective):
            continue
        figure = optuna_plots.plot_optimization_history(
            history.optuna_study({objective: direction}), target_name=label(objective)
        )
        figure.update_layout(xaxis_title="trial", yaxis_title=label(objective))
        if len(history.trials) <= 20:
            figure.update_xaxes(dtick=1)  # there is no trial 0.5
        figure.for_each_trace(
            lambda trace: trace.update(
                name={"Best Value": "best so far", "Infeasible Trial": "breaks a constraint"}.get(
                    trace.name, "complete trial"
                ),
                showlegend=trace.x is not None and len(trace.x) > 0,
            )
        )
        yield Picture(
            f"Optimisation history: {objective} ({direction})",
            "One point for each complete trial, in the order in which they were started; the line is the best so "
            "far. Trials stopped at a rung have no final value and are not shown.",
            figure,
        )


def learning_curves(history: History) -> Iterator[Picture]:
    rungs = rung_steps(history.spec)
    for objective in history.objectives:
        reported = [trial for trial in history.trials.values() if trial.curves.get(objective)]
        if not any(len({value for _, value in trial.curves[objective]}) > 1 for trial in reported):
            continue  # known before the training, or reported once: no curve
        figure = go.Figure()
        for outcome in sorted(
            COLOURS, key=lambda outcome: outcome is Outcome.COMPLETE
        ):  # those above the others
            group = [trial for trial in reported if trial.outcome == outcome]
            if group:
                figure.add_traces(_curves(group, objective, outcome))
        best = history.counters.best_trial.get(objective)
        if best in history.trials:
            steps, values = zip(*history.trials[best].curves[objective], strict=True)
            name = f"best complete: trial {best}"
            figure.add_trace(
                go.Scatter(x=steps, y=values, mode="lines", name=name, line={"color": "black", "width": 3})
            )
        for number, rung in enumerate(rungs, start=1):
            name = f"rung {number}" if len(rungs) <= 8 else ""
            line = {"dash": "dot", "color": "grey", "width": 1}
            figure.add_vline(rung, line=line, annotation_text=name)
        figure.update_layout(xaxis_title="optimizer step", yaxis_title=label(objective))
        yield Picture(
            f"Learning curves: {objective}",
            "One line for each trial, coloured by how it ended."
            + (
                " At each dotted rung, trials are compared with all that reached it before, and the worse part is "
                "stopped there."
                if rungs
                else ""
            ),
            figure,
        )


def _curves(trials: list[TrialHistory], metric: str, outcome: Outcome) -> list[go.Scatter]:
    """All lines of one outcome as one trace (hundreds of traces make a page slow), and its key in full colour."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for trial in trials:
        for step, value in trial.curves[metric]:
            x.append(step)
            y.append(value)
            text.append(f"trial {trial.number}")
        x.append(None)
        y.append(None)
        text.append("")
    line = {"color": COLOURS[outcome], "width": 1.5}
    return [
        go.Scatter(
            x=x,
            y=y,
            text=text,
            mode="lines+markers" if len(trials) <= 60 else "lines",
            line=line,
            marker={"size": 6 if len(trials) <= 20 else 4},  # a trial of one report is its marker
            opacity=max(0.3, min(0.9, 25 / len(trials))),
            hovertemplate="%{text}<br>step %{x}: %{y:.4f}<extra></extra>",
            legendgroup=outcome,
            showlegend=False,
        ),
        go.Scatter(
            x=[None],
            y=[None],
            name=f"{outcome} ({len(trials)})",
            mode="lines",
            line=line | {"width": 3},
            legendgroup=outcome,
        ),
    ]


def parameter_importances(history: History) -> Iterator[Picture]:
    for objective, direction in history.objectives.items():
        num_trials = len(_complete_with(history, objective))
        if num_trials < FEWEST_FOR_IMPORTANCES:
            continue
        try:
            figure = optuna_plots.plot_param_importances(history.optuna_study({objective: direction}))
        except (ValueError, RuntimeError):
            continue  # all values equal, or no parameter that every trial has
        figure.update_layout(xaxis_title="importance (sums to 1)", yaxis_title="")
        figure.update_yaxes(automargin=True)
        yield Picture(
            f"Parameter importances: {objective}",
            "How much each parameter decides whether a complete trial is among the best, by Optuna's PED-ANOVA. "
            f"From {num_trials} trials; below some 30 it is a hint, not a finding.",
            figure,
        )


def parallel_coordinates(history: History) -> Iterator[Picture]:
    for objective, direction in history.objectives.items():
        shown = _complete_with(history, objective)
        if len(shown) < 2:
            continue
        figure = optuna_plots.plot_parallel_coordinate(
            history.optuna_study({objective: direction}), target_name=label(objective)
        )
        full_names = {key for trial in shown for key in trial.params} | {label(objective)}
        heads = [head.removesuffix("...") for head in figure.layout.xaxis.ticktext]  # Optuna cuts long ones
        figure.update_xaxes(
            ticktext=[next((name for name in full_names if name.startswith(head)), head) for head in heads]
        )
        figure.update_traces(  # above the bar, a long name narrows the picture
            marker_colorbar_title_side="right", selector=lambda trace: bool(trace.marker.colorbar.title.text)
        )
        figure.update_layout(margin={"l": 110, "r": 60, "t": 40, "b": 60})
        _widen(figure, len(full_names))
        yield Picture(
            f"Parallel coordinates: {objective}",
            "One line for each complete trial through its value and its parameters, darker where it is better.",
            figure,
        )


def slices(history: History) -> Iterator[Picture]:
    for objective, direction in history.objectives.items():
        shown = _complete_with(history, objective)
        if len(shown) < 2:
            continue
        figure = optuna_plots.plot_slice(
            history.optuna_study({objective: direction}), target_name=label(objective)
        )
        figure.for_each_xaxis(
            lambda axis, shown=shown: (
                axis.type == "log"
                and axis.update(_log_ticks([trial.params.get(axis.title.text) for trial in shown]))
            )
        )
        _widen(figure, len({key for trial in shown for key in trial.params}))
        yield Picture(
            f"Slices: {objective}",
            "The objective against each parameter alone, complete trials only; darker points came later.",
            figure,
        )


def _widen(figure: go.Figure, num_columns: int) -> None:
    """Give many columns the room to be read; the page scrolls sideways."""
    if num_columns > 5:
        figure.update_layout(width=200 * num_columns, autosize=False)


def _log_ticks(values: Iterable[float | None]) -> dict[str, Any]:
    """Ticks written out at 1, 2 and 5 of each decade: plotly writes bare digits between the powers of ten."""
    known = [value for value in values if value]
    decades = range(math.floor(math.log10(min(known))), math.ceil(math.log10(max(known))) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return {"tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def pareto_front(history: History) -> Iterator[Picture]:
    targets = dict(history.objectives)
    if len(targets) == 1:
        targets[MEMORY] = "minimize"
    targets = dict(list(targets.items())[:3])
    shown = [trial for trial in _ended(history, Outcome.COMPLETE) if targets.keys() <= trial.last.keys()]
    if len(targets) < 2 or len(shown) < 2:
        return
    figure = optuna_plots.plot_pareto_front(
        history.optuna_study(targets), target_names=[label(name) for name in targets]
    )
    for trace in figure.data:  # Optuna's shades by trial number leave the earliest points white
        kind = trace.hovertemplate.partition("<extra>")[2].removesuffix("</extra>")
        name, colour = FRONT.get(kind, ("other complete trials", "#8d99a6"))
        trace.update(
            name=name,
            marker={"color": colour, "size": 9 if len(targets) == 2 else 5, "showscale": False, "line": None},
            showlegend=len(trace.x) > 0,
        )
        if name == "the front" and len(trace.x) <= 20:
            numbers = [text.partition('"number": ')[2].partition(",")[0] for text in trace.text]
            trace.update(mode="markers+text", hovertext=trace.text, text=numbers, textposition="top right")
            trace.update(hovertemplate="%{hovertext}<extra>the front</extra>")
    figure.update_layout(height=460 if len(targets) == 2 else 650)
    yield Picture(
        f"Pareto front: {' against '.join(targets)}",
        "Complete trials. For each of the front, named by its number, none is better in one of these without being "
        "worse in another.",
        figure,
    )


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
                text=[f"trial {trial.number}, {trial.outcome} at step {trial.step}" for trial in group],
                mode="markers",
                name="complete" if is_complete else "ended earlier",
                marker={
                    "symbol": symbol,
                    "size": 9,
                    "color": [trial.last[objective] for trial in group],
                    "coloraxis": "coloraxis",
                },
                hovertemplate="%{text}<br>temperature %{x:.3g}, cosine %{y:.3f}<br>%{marker.color:.4f}",
            )
        )
    finite = [trial.last[objective] for trial in shown if math.isfinite(trial.last[objective])]
    span = {"cmin": min(finite), "cmax": max(finite)} if len(set(finite)) > 1 else {}
    figure.update_layout(
        xaxis={"type": "log", "title": "contrastive temperature (log scale)"}
        | _log_ticks([trial.params[TEMPERATURE] for trial in shown]),
        yaxis_title="proxy_cosine",
        coloraxis={"colorscale": "Viridis", "colorbar": {"title": label(objective)}} | span,
        legend={"orientation": "h", "y": 1.08},
    )
    yield Picture(
        "Proxy cosine against contrastive temperature",
        "Mean off-diagonal |cosine| of the proxies at each trial's last report: 0 means that they point in different "
        "directions, 1 that they have collapsed into one. The colour is the objective at that report.",
        figure,
    )


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
                    customdata=[[trial.step, _words(trial)] for trial, _ in group],
                    hovertemplate="trial %{text}, step %{customdata[0]}<br>%{customdata[1]}",
                    orientation="h",
                    name=outcome,
                    marker={"color": colour, "line": {"color": "white", "width": 0.5}},
                )
            )
    figure.update_layout(
        barmode="overlay",
        xaxis_title=f"{unit} since the first trial started",
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
    """Only the last placement ended as the trial did."""
    return trial.outcome if placement is trial.placements[-1] else Outcome.INTERRUPTED


def _words(trial: TrialHistory) -> str:
    params = " ".join(f"{key.rpartition('.')[2]}={short(value)}" for key, value in trial.params.items())
    return f"{trial.outcome} {params}"


def _time_unit(span_ms: float) -> tuple[str, float]:
    for unit, divisor in (("days", 86_400_000.0), ("hours", 3_600_000.0), ("minutes", 60_000.0)):
        if span_ms > 3 * divisor:
            return unit, divisor
    return "seconds", 1000.0


def dressed(picture: Picture) -> Picture:
    """One look for all: a white ground, room for long axis names; the title stands above the figure."""
    figure = picture.figure
    figure.update_layout(
        title=None,
        template="plotly_white",
        font={"size": 13},
        height=figure.layout.height or 460,
        margin={"t": figure.layout.margin.t or 30},
    )
    return picture
