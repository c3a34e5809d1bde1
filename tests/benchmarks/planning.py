"""`proxytune plan` compared with the real study: both as commands, one after the other, with a fresh storage."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxytune.tuning.journal.events import Event
from proxytune.tuning.journal.reading import read_events

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDIES: dict[str, Sequence[str]] = {
    "recall": ["recall"],
    "listops-mini, a third of its steps": [
        "listops-mini",
        *("--set", "training.steps=400", "--set", "training.warmup_steps=40"),
        *("--set", "training.eval_every=100", "--set", "search.stopping.min_steps=100"),
        *("--set", "task.train_examples=20000"),
    ],
    "recall without stopping, over batch sizes": [
        "recall",
        *("--set", "search.stopping=none", "--set", "search.sampler=random", "--set", "search.trials=8"),
        *("--set", "search.space.training.batch_size=[16, 32, 64]", "--set", "search.enqueue=[]"),
    ],
}
"""Arguments of `plan` and `run`; each takes minutes on two cores."""


def run(studies: Mapping[str, Sequence[str]], progress: Callable[[str], None] = lambda text: None) -> Any:
    """Plan, run and plan again each study: the load may change in between, so the prediction is the mean of both plans."""
    rows = []
    for name, arguments in studies.items():
        with tempfile.TemporaryDirectory(prefix="planning-") as folder:
            before = _command("plan", arguments, folder)
            began = time.time()
            _command("run", arguments, folder)
            after = _command("plan", arguments, folder)
            (outbox,) = Path(folder).glob("*/outbox")
            events = read_events(outbox).events
        rows.append(_row(name, before, after, events, began))
        progress(json.dumps(rows[-1]))
    return {"studies": rows}


def _command(verb: str, arguments: Sequence[str], folder: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-P",
        "-m",
        "proxytune.tuning",
        verb,
        *arguments,
        "--storage",
        folder,
        "--json",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _row(name: str, before: Any, after: Any, events: Sequence[Event], began: float) -> dict[str, Any]:
    seconds = max(event.time_ms for event in events if event.kind == "end") / 1000 - began
    ends = {event.trial: event.step for event in events if event.kind == "end"}
    predicted = (before["seconds"]["median"] + after["seconds"]["median"]) / 2
    return {
        "study": name,
        "predicted_seconds": predicted,
        "low": min(before["seconds"]["low"], after["seconds"]["low"]),
        "high": max(before["seconds"]["high"], after["seconds"]["high"]),
        "predictions": [before["seconds"]["median"], after["seconds"]["median"]],
        "start_seconds": first_start(events) - began,
        "seconds": seconds,
        "error": predicted / seconds - 1,
        "predicted_trials": {step: before["trials"][step]["median"] for step in before["trials"]},
        "trials": {step: sum(end >= int(step) for end in ends.values()) for step in before["trials"]},
        "predicted_step_milliseconds": before["step_milliseconds"]["median"],
        "step_milliseconds": _step_milliseconds(events),
    }


def first_start(events: Sequence[Event]) -> float:
    """Start time of the first trial, in Unix seconds."""
    return min(event.time_ms for event in events if event.kind == "trial") / 1000


def _step_milliseconds(events: Sequence[Event]) -> float:
    """Milliseconds of training and evaluation per step, over all trials."""
    last = {event.trial: event for event in events if event.kind == "report"}
    return (
        1000
        * sum(event.metrics["seconds"] for event in last.values())
        / sum(event.step for event in last.values())
    )


def headline(result: dict[str, Any]) -> dict[str, str]:
    """The rows for the table of all benchmarks."""
    return {
        f"makespan of {row['study']}, predicted and real": (
            f"{row['predicted_seconds']:.0f} s [{row['low']:.0f}, {row['high']:.0f}], {row['seconds']:.0f} s: "
            f"{row['error']:+.0%}"
        )
        for row in result["studies"]
    }


def figure(result: dict[str, Any]) -> "Figure":
    """The prediction's interval and the real time of each study."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 3), layout="constrained")
    axes = drawing.subplots()
    for y, row in enumerate(result["studies"]):
        axes.plot([row["low"], row["high"]], [y, y], color="tab:blue", linewidth=6, alpha=0.4)
        axes.plot(row["predicted_seconds"], y, "o", color="tab:blue")
        axes.plot(row["seconds"], y, "x", color="black")
    axes.set_yticks(range(len(result["studies"])), [row["study"] for row in result["studies"]])
    axes.set_xlabel("seconds: predicted with interval (blue), real (x)")
    return drawing
