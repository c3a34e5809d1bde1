"""Which share of a real study's slot-seconds is spent training: the rest is Ray, asks, checkpoints, waiting, starts."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from proxytune.tuning.journal.events import Event
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.run.driver import run_study
from proxytune.tuning.spec.study_files import read_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(assignments: Sequence[str] = ()) -> dict[str, Any]:
    """Run listops-mini (with `key=value` overrides) and add up who used its slots, from its own journal.

    Training includes evaluation, as the metric `seconds` does. The slots are taken from the first trial's start to
    the last one's end.
    """
    with tempfile.TemporaryDirectory(prefix="efficiency-") as folder:
        slots: list[int] = []
        spec = read_study("listops-mini", [*assignments, f"storage={folder}/studies"])

        @contextmanager
        def watch(*_: Any) -> Iterator[None]:
            import ray

            cpus = int(ray.cluster_resources()["CPU"])  # type: ignore[no-untyped-call]
            slots.append(min(cpus // spec.resources.cpu, spec.resources.max_concurrent or cpus))
            yield

        run_study(spec, watch=watch)
        events = read_events(spec.folder / "outbox").events
    return account(events, slots[0])


def account(events: Sequence[Event], num_slots: int) -> dict[str, Any]:
    """Slot-seconds of a study by what they went into."""
    starts = [event.time_ms for event in events if event.kind == "trial"]
    ends = [event.time_ms for event in events if event.kind == "end"]
    training: dict[int, float] = {}
    for event in events:
        if event.kind == "report":
            training[event.trial] = event.metrics["seconds"]
    slot_seconds = num_slots * (max(ends) - min(starts)) / 1000
    busy = (sum(ends) - sum(starts)) / 1000
    trained = sum(training.values())
    return {
        "trials": len(ends),
        "slots": num_slots,
        "slot_seconds": slot_seconds,
        "seconds": {
            "training and evaluation": trained,
            "within a trial, not training": busy - trained,
            "between trials": slot_seconds - busy,
        },
        "share_training": trained / slot_seconds,
    }


def headline(result: dict[str, Any]) -> dict[str, str]:
    """What a table of all benchmarks shows."""
    return {
        f"slot-seconds spent training, {result['trials']} trials on {result['slots']} slots": f"{result['share_training']:.1%}"
    }


def figure(result: dict[str, Any]) -> "Figure":
    """The shares as one bar."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 2.5), layout="constrained")
    axes = drawing.subplots()
    left = 0.0
    for name, seconds in result["seconds"].items():
        share = seconds / result["slot_seconds"]
        axes.barh([0], [share], left=left, label=f"{name}: {share:.1%}")
        left += share
    axes.set_yticks([])
    axes.set_xlim(0, 1)
    axes.set_title(f"slot-seconds of {result['trials']} trials on {result['slots']} slots")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False)
    return drawing
