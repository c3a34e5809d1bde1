"""Rows per second of preparing each generated task, and milliseconds to open the prepared data."""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxytune.datasets import TASKS, open_prepared, prepare
from proxytune.datasets.prepare import make_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAIN_EXAMPLES = {"pathfinder": 4_000, "pathfinder64": 400, "pathx": 200}
"""Reduced sizes of tasks that would take too long; other tasks have their default size."""
QUICK_EXAMPLES = {"listops": 500, "listops-mini": 500, "pathfinder": 200, "pathfinder64": 100, "pathx": 50}


def run(quick: bool = False, progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Generate and prepare the data of every generated task in a temporary folder, on all cores."""
    sizes: Mapping[str, int] = QUICK_EXAMPLES if quick else TRAIN_EXAMPLES
    tasks = {}
    for name in TASKS:
        if make_task(name).generator is None:
            continue
        with tempfile.TemporaryDirectory(prefix="data-") as cache:
            began = time.perf_counter()
            prepared = prepare(name, cache=Path(cache), train_examples=sizes.get(name))
            seconds = time.perf_counter() - began
            rows = sum(record.rows for record in prepared.records.values())
            began = time.perf_counter()
            open_prepared(prepared.folder)
            opened = time.perf_counter() - began
        tasks[name] = {
            "rows": rows,
            "seconds": seconds,
            "rows_per_second": rows / seconds,
            "open_milliseconds": 1000 * opened,
        }
        progress(f"{name}: {rows} rows in {seconds:.1f} s, {rows / seconds:.0f} rows/s")
    return {"cores": len(os.sched_getaffinity(0)), "tasks": tasks}


def headline(result: dict[str, Any]) -> dict[str, str]:
    """The rows for the table of all benchmarks."""
    return {
        f"{name}, {task['rows']:,} rows on {result['cores']} cores": (
            f"{task['rows_per_second']:.0f} rows/s, opened in {task['open_milliseconds']:.0f} ms"
        )
        for name, task in result["tasks"].items()
    }


def figure(result: dict[str, Any]) -> "Figure":
    """Rows per second of each task, on a logarithmic axis."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 4), layout="constrained")
    axes = drawing.subplots()
    names = list(result["tasks"])
    bars = axes.barh(names, [result["tasks"][name]["rows_per_second"] for name in names])
    axes.bar_label(bars, fmt=" {:.0f}")
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel(f"rows generated and written per second on {result['cores']} cores")
    return drawing
