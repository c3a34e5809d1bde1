"""The figure of a race: regret by budget, the difference to stock, and mean ranks with the critical difference."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure


def draw(result: Mapping[str, Any]) -> Figure:
    """One row per group of tasks and number of workers, with the rule "trained"."""
    blocks = [
        (group, workers, block)
        for group, entry in result["groups"].items()
        for workers, block in entry["rules"]["trained"].items()
    ]
    figure = Figure(figsize=(18, 4.6 * len(blocks)), layout="constrained")
    for axes, (group, workers, block) in zip(
        figure.subplots(len(blocks), 3, squeeze=False), blocks, strict=True
    ):
        regret, difference, ranks = axes
        regret.set_title(f"{group}, {workers} workers: mean regret")
        difference.set_title("minus that of stock, 95 % intervals (below 0: better)")
        for index, method in enumerate(result["methods"]):
            _line(regret, result["budgets"], block["regret"].get(method), method, f"C{index}")
            _line(difference, result["budgets"], block["less stock"].get(method), method, f"C{index}")
        difference.axhline(0.0, color="black", linewidth=0.8)
        regret.legend(frameon=False, fontsize=8)
        _ranks(ranks, block["ranks"])
    return figure


def _line(
    axes: Any, budgets: Sequence[float], entry: Mapping[str, Any] | None, name: str, color: str
) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
    axes.minorticks_off()
    axes.set_xlabel("budget per worker, full trainings")
    axes.grid(alpha=0.3)
    if entry is None:
        return
    points = entry["points"]
    axes.plot(budgets, [p["mean"] for p in points], marker="o", markersize=3, label=name, color=color)
    low, high = [p["low"] for p in points], [p["high"] for p in points]
    axes.fill_between(budgets, low, high, alpha=0.12, color=color, linewidth=0)


def _ranks(axes: Any, entry: Mapping[str, Any]) -> None:
    """A dot per method; the bar shows the critical difference, starting at the best method."""
    axes.set_title(f"mean rank over {entry['tasks']} tasks at {entry['budget']:g} trainings per worker")
    axes.set_xlabel("mean rank (1: best)")
    order = sorted(entry["mean"], key=entry["mean"].__getitem__, reverse=True)
    axes.plot([entry["mean"][method] for method in order], range(len(order)), "o")
    axes.set_yticks(range(len(order)), order)
    if entry["critical difference"] is not None:
        best = entry["mean"][order[-1]]
        bar = [best, best + entry["critical difference"]]
        axes.plot(bar, [len(order) - 0.5] * 2, color="C3", linewidth=4, label="critical difference")
        axes.axvline(bar[1], color="C3", linewidth=0.8, linestyle=":")
        axes.legend(frameon=False, fontsize=8)
    axes.grid(axis="x", alpha=0.3)
