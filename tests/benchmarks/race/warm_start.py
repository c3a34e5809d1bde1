"""The gain of a warm start from another task: each study of the curve bank as the task, the others as the source.

The search is the shipped one. With a source, the source's best configurations run first (`search.warm_start.bank`), as in
a real study; without one, the sampler's random configurations do. The target's own trials are never a source.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table as RichTable

from proxytune.tuning.errors import InputError
from proxytune.tuning.studies import banked_studies
from tests.benchmarks.race.methods import COLD, Run, warm
from tests.benchmarks.race.records import run_missing
from tests.benchmarks.race.report import text
from tests.benchmarks.race.statistics import paired
from tests.benchmarks.race.tables import RecordedTask


def run(
    tasks: Sequence[RecordedTask],
    records: Path,
    num_seeds: int,
    budgets: Sequence[float],
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run the races that are not in `records` with one worker, and return the paired differences by target and source.

    Raises:
        InputError: the bank has no study that can be a table.
    """
    if not tasks:
        raise InputError("the curve bank has no study whose trials were all trained to the end")
    sources = {task.name: [name for name in banked_studies() if name != task.name] for task in tasks}
    wanted = [
        Run(1, seed, task, method)
        for seed in range(num_seeds)
        for task, others in sources.items()
        for method in (COLD, *map(warm, others))
    ]
    finished = run_missing(records, {task.name: task for task in tasks}, wanted, budgets, progress)
    return {
        "budgets": list(budgets),
        "less cold": {
            task: {
                source: paired(
                    {race: outcome for race, outcome in finished.items() if race.task == task},
                    "trained", 1, warm(source), COLD,
                )
                for source in others
            }
            for task, others in sources.items()
        },
    }  # fmt: skip


def headline(result: Mapping[str, Any]) -> dict[str, str]:
    """The rows for the table of all benchmarks: at the lowest budget."""
    return {
        f"{task}, warm start from {source}: regret minus that without, after {result['budgets'][0]:g} trainings, hundredths": text(
            entry["points"][0]
        )
        for task, sources in result["less cold"].items()
        for source, entry in sources.items()
    }


def figure(result: Mapping[str, Any]) -> Figure:
    """The differences by budget with their intervals: a plot per target, a line per source."""
    rows = result["less cold"]
    drawing = Figure(figsize=(4.5 * len(rows), 3.5), layout="constrained")
    for axes, (task, sources) in zip(np.ravel(drawing.subplots(1, len(rows))), rows.items(), strict=True):
        for source, entry in sources.items():
            mean, low, high = (
                [100 * point[key] for point in entry["points"]] for key in ("mean", "low", "high")
            )
            (line,) = axes.plot(result["budgets"], mean, marker="o", label=f"from {source}")
            axes.fill_between(result["budgets"], low, high, color=line.get_color(), alpha=0.15)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(
            title=task, xscale="log", xlabel="full trainings", ylabel="regret minus cold start, hundredths"
        )
        axes.set_xticks(result["budgets"], [f"{budget:g}" for budget in result["budgets"]])
        axes.minorticks_off()
        axes.legend(fontsize="small")
    return drawing


def table(result: Mapping[str, Any]) -> RichTable:
    """The paired differences, one row per target and source."""
    shown = RichTable("task", "warm start from", "seeds", *(f"{budget:g}" for budget in result["budgets"]))
    for task, sources in result["less cold"].items():
        for source, entry in sources.items():
            shown.add_row(task, source, str(entry["seeds"]), *map(text, entry["points"]))
    return shown
