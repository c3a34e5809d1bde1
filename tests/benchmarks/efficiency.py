"""The share of a real study's slot-seconds that is spent training; the rest is Ray, asks, checkpoints, waiting, starts."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from proxytune.tuning.journal.events import Event, Reported
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.run.driver import run_study
from proxytune.tuning.spec.study_files import read_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(assignments: Sequence[str] = ()) -> dict[str, Any]:
    """Run listops-mini (with `key=value` overrides) and account for the use of its slots from its journal.

    Training includes evaluation, as in the metric `seconds`. The time is that from the first trial's start to the
    last trial's end.
    """
    with tempfile.TemporaryDirectory(prefix="efficiency-") as folder:
        slots: list[int] = []
        spec = read_study("listops-mini", [*assignments, f"storage={folder}/studies"])

        @contextmanager
        def watch(*_: Any) -> Iterator[None]:
            import ray

            cpus = int(ray.cluster_resources()["CPU"])
            slots.append(min(cpus // spec.resources.cpu, spec.resources.max_concurrent or cpus))
            yield

        run_study(spec, watch=watch)
        events = read_events(spec.folder / "outbox").events
    return account(events, slots[0])


def account(events: Sequence[Event], num_slots: int) -> dict[str, Any]:
    """Slot-seconds of a study by their use; the parts add up to the total.

    From the first trial's start to the last trial's end. A worker is a process; its start is the time before its
    first trial and before that trial's first step.
    """
    begun = {event.trial: event.time_ms / 1000 for event in events if event.kind == "trial"}
    ended = {event.trial: event.time_ms / 1000 for event in events if event.kind == "end"}
    reports: dict[int, list[Reported]] = {}
    for event in events:
        if event.kind == "report":
            reports.setdefault(event.trial, []).append(event)
    first, last = min(begun.values()), max(ended.values())
    trained = sum(own[-1].metrics["seconds"] for own in reports.values())
    starts = {
        trial: own[0].time_ms / 1000 - begun[trial] - own[0].metrics["seconds"]
        for trial, own in reports.items()
    }
    workers: dict[int | None, list[int]] = {}
    for trial in sorted(reports, key=begun.__getitem__):
        workers.setdefault(reports[trial][0].pid, []).append(trial)
    slot_seconds = num_slots * (last - first)
    parts = {
        "training and evaluation": trained,
        "start of workers": sum(begun[own[0]] - first + starts[own[0]] for own in workers.values()),
        "start of trials": sum(starts[trial] for own in workers.values() for trial in own[1:]),
        "idle while the last trials run": sum(
            last - max(ended[trial] for trial in own) for own in workers.values()
        ),
    }
    parts["checkpoints, Ray, asks"] = slot_seconds - sum(parts.values())
    return {
        "trials": len(ended),
        "slots": num_slots,
        "slot_seconds": slot_seconds,
        "seconds": parts,
        "shares": {name: seconds / slot_seconds for name, seconds in parts.items()},
        "share_training": trained / slot_seconds,
    }


def headline(result: dict[str, Any]) -> dict[str, str]:
    """The rows for the table of all benchmarks."""
    return {
        f"slot-seconds spent training, {result['trials']} trials on {result['slots']} slots": f"{result['share_training']:.1%}"
    }


def figure(result: dict[str, Any]) -> "Figure":
    """The shares as a stacked bar."""
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
