"""Optimisation history and learning curves: an objective over trials, and over the steps of each trial."""

from collections.abc import Iterator

import plotly.graph_objects as go

from proxytune.tuning.journal.counters import rung_steps
from proxytune.tuning.report.history import History, TrialHistory
from proxytune.tuning.report.picture import BEST, COLOURS, Picture, hover, label
from proxytune.tuning.spec import ranking
from proxytune.tuning.spec.outcome import Outcome


def optimisation_history(history: History) -> Iterator[Picture]:
    for objective, direction in history.objectives.items():
        shown = history.with_metric(objective)
        if not shown:
            continue
        figure = go.Figure([*_points(history, shown, objective)])
        steps = _best_so_far(history, objective, direction)
        if steps:
            numbers, values = zip(*steps, strict=True)
            figure.add_trace(
                go.Scatter(
                    x=numbers,
                    y=values,
                    mode="lines",
                    name="best so far",
                    line={"color": BEST, "width": 2, "shape": "hv"},
                    hovertemplate="best of trials 0 to %{x}: %{y:.4f}<extra></extra>",
                )
            )
        if history.trials:
            few = {"dtick": 1} if len(history.trials) <= 20 else {}
            figure.update_xaxes(range=[-0.5, max(history.trials) + 0.5], **few)
        figure.update_layout(xaxis_title="trial", yaxis_title=label(objective))
        yield Picture(
            f"Optimisation history: {objective} ({direction})",
            "One point for each trial, in the order of their start. Filled points are complete trials within the "
            "constraints; the line is the best of them so far. Hollow points are the last value of a trial that ended "
            "before its full budget or violates a constraint; they are not comparable with filled points.",
            figure,
        )


def _points(history: History, shown: list[TrialHistory], objective: str) -> Iterator[go.Scatter]:
    eligible = history.eligible()
    for outcome, colour in COLOURS.items():
        for may_win in (True, False):
            group = [one for one in shown if one.outcome is outcome and (one.number in eligible) is may_win]
            if not group:
                continue
            broken = " (breaks a constraint)" if outcome is Outcome.COMPLETE and not may_win else ""
            yield go.Scatter(
                x=[trial.number for trial in group],
                y=[trial.last[objective] for trial in group],
                text=[hover(trial, objective) for trial in group],
                mode="markers",
                name=f"{outcome}{broken}",
                marker={"color": colour, "size": 8, "symbol": "circle" if may_win else "circle-open"},
                hovertemplate="%{text}<extra></extra>",
            )


def _best_so_far(history: History, objective: str, direction: str) -> list[tuple[int, float]]:
    """(trial, best value of the eligible trials up to it), from the first eligible trial to the last trial."""
    eligible, steps = history.eligible(), list[tuple[int, float]]()
    best: int | None = None
    for number in sorted(history.trials):
        if objective in eligible.get(number, {}):
            known = {one: eligible[one] for one in (best, number) if one is not None}
            best = ranking.best(known, {objective: direction})
        if best is not None:
            steps.append((number, eligible[best][objective]))
    return steps


def learning_curves(history: History) -> Iterator[Picture]:
    rungs = rung_steps(history.spec)
    for objective in history.objectives:
        reported = [trial for trial in history.trials.values() if trial.curves.get(objective)]
        if not any(len({value for _, value in trial.curves[objective]}) > 1 for trial in reported):
            continue  # known before training, or reported once: no curve
        figure = go.Figure()
        for outcome in sorted(
            COLOURS, key=lambda outcome: outcome is Outcome.COMPLETE
        ):  # drawn above the others
            group = [trial for trial in reported if trial.outcome is outcome]
            if group:
                figure.add_traces(_curves(group, objective, outcome))
        best = history.winner.get("trial")
        if best in history.trials and history.trials[best].curves.get(objective):
            steps, values = zip(*history.trials[best].curves[objective], strict=True)
            line = {"color": BEST, "width": 3}
            figure.add_trace(
                go.Scatter(x=steps, y=values, mode="lines", name=f"winner: trial {best}", line=line)
            )
        for number, rung in enumerate(rungs, start=1):
            name = f"rung {number}" if len(rungs) <= 8 else ""
            line = {"dash": "dot", "color": "grey", "width": 1}
            figure.add_vline(rung, line=line, annotation={"text": name, "textangle": -90, "yanchor": "top"})
        figure.update_layout(xaxis_title="optimizer step", yaxis_title=label(objective))
        yield Picture(
            f"Learning curves: {objective}",
            "The values that each trial reported, coloured by its outcome."
            + (_rungs_read(history) if rungs else ""),
            figure,
        )


def _rungs_read(history: History) -> str:
    if history.spec["search"]["stopping"]["name"] == "curve":
        rule = "if all curves so far give it hardly a chance of becoming the best"
    else:
        rule = "if it is not among the best of the trials that reached the rung before it"
    return f" At each dotted rung a trial is stopped {rule}: which trials are stopped depends on the timing of the workers."


def _curves(trials: list[TrialHistory], metric: str, outcome: Outcome) -> list[go.Scatter]:
    """All lines of one outcome as one trace (hundreds of traces make a page slow), and its legend entry in full colour."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for trial in trials:
        words = hover(trial)
        for step, value in trial.curves[metric]:
            x.append(step)
            y.append(value)
            text.append(words)
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
            opacity=max(0.35, min(0.9, 25 / len(trials))),
            hovertemplate="step %{x}: %{y:.4f}<br>%{text}<extra></extra>",
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
