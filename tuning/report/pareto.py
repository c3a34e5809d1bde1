"""The Pareto front of two or three objectives, for the report and the index of an export."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from proxytune.tuning.report.history import History
from proxytune.tuning.report.picture import BEST, Picture, hover, label
from proxytune.tuning.spec import ranking
from proxytune.tuning.spec.outcome import Outcome

MAX_OBJECTIVES = 3
MAX_NAMED = 20  # points of the front that are labelled with their number


def pareto_front(history: History) -> Iterator[Picture]:
    objectives = ranking.front_objectives(history.objectives)
    drawn = list(objectives)[:MAX_OBJECTIVES]
    points = {
        trial.number: trial.last
        for trial in history.trials.values()
        if trial.outcome is Outcome.COMPLETE and all(name in trial.last for name in objectives)
    }
    if len(drawn) < 2 or len(points) < 2:
        return
    eligible = history.eligible()
    front = ranking.front({number: points[number] for number in points if number in eligible}, objectives)
    groups = {
        "the front": front,
        "other complete trials": [n for n in points if n in eligible and n not in front],
        "break a constraint": [n for n in points if n not in eligible],
    }
    texts = {number: hover(history.trials[number], *objectives) for number in points}
    more = "" if len(objectives) == len(drawn) else f" The front is over {', '.join(objectives)}."
    yield Picture(
        f"Pareto front: {' against '.join(drawn)}",
        "Complete trials. For a trial of the front, named by its number, no other trial is better in one objective "
        f"without being worse in another.{more}",
        front_figure(points, drawn, groups, texts),
    )


def front_figure(
    points: Mapping[int, Mapping[str, float]],
    objectives: Sequence[str],
    groups: Mapping[str, Sequence[int]],
    texts: Mapping[int, str],
) -> go.Figure:
    """Groups of trials by name over two objectives, the first one upwards, or over three.

    Args:
        points: the metrics of each trial.
        objectives: two or three of them.
        groups: trial numbers by name: the front, others, those that break a constraint.
        texts: what is shown of a trial under the pointer.
    """
    colours = {"the front": BEST, "break a constraint": "#a8842c"}
    axes = ("y", "x") if len(objectives) == 2 else ("x", "y", "z")
    figure = go.Figure()
    for name, numbers in groups.items():
        if not numbers:
            continue
        is_front = name == "the front"
        ordered = sorted(numbers, key=lambda number: points[number][objectives[1]])
        style: dict[str, Any] = {
            "mode": "markers+text" if is_front and len(ordered) <= MAX_NAMED else "markers",
            "text": [str(number) for number in ordered] if is_front else None,
            "textposition": "top center",
            "marker": {"color": colours.get(name, "#6b7280"), "size": 9 if len(axes) == 2 else 5},
        }
        places = {
            axis: [points[number][objective] for number in ordered]
            for axis, objective in zip(axes, objectives, strict=True)
        }
        kind = go.Scatter if len(axes) == 2 else go.Scatter3d
        hovers = [texts[number] for number in ordered]
        figure.add_trace(
            kind(**places, **style, name=name, hovertext=hovers, hovertemplate="%{hovertext}<extra></extra>")
        )
    titles = {
        f"{axis}axis": {"title": label(objective)} for axis, objective in zip(axes, objectives, strict=True)
    }
    if len(axes) == 2:
        return figure.update_layout(height=460, **titles)
    return figure.update_layout(height=620, scene=titles)
