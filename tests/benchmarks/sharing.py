"""Three studies that share a cluster, compared with one study of the same work alone, from journals and databases.

Two studies of priority 0 start together; one of priority 1 starts when both train. The nodes are processes on this
machine, each with its own folder. Trials sleep for one second per step instead of training (`waiting_driver.py`).
Drivers, workers, checkpoints and slots are real, so the benchmark measures the use of the slots and does not depend on
the number of cores.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxytune.tuning.journal.events import Event
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.search.shares import Claim, shares
from proxytune.tuning.store.study import open_study
from tests.tuning.cluster.nodes import RayCluster

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYOUTS: dict[str, Sequence[int]] = {"2 slots, one node": (2,), "8 slots, two nodes": (4, 4)}
STEPS, QUICK_STEPS, REPORTS = 90, 9, 3
_SETTINGS = (
    *("search.stopping=none", "search.sampler=random", "search.enqueue=[]", "training.warmup_steps=0"),
    "search.space={model.num_proxies: [4, 8]}",
)
DRIVER = Path(__file__).with_name("waiting_driver.py")
HIGH = "high"


def run(
    layouts: Mapping[str, Sequence[int]], trials_per_slot: int, steps: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Run one study alone and then three that share the cluster, for each layout.

    Args:
        layouts: cores of each node, by the layout's name.
        trials_per_slot: trials of each of the three studies, per slot.
        steps: steps of a trial, which are also its seconds; it reports REPORTS times.
    """
    rows = []
    for name, cpus in layouts.items():
        slots = sum(cpus)
        with tempfile.TemporaryDirectory(prefix="sharing-") as folder:
            cluster = RayCluster(cpus[0])
            try:
                for index, count in enumerate(cpus[1:]):
                    cluster.add(f"worker{index}", count)
                trials = trials_per_slot * slots
                alone = _run_studies(cluster, Path(folder) / "alone", steps, {"alone": (3 * trials, 0)})
                three = {"first": (trials, 0), "second": (trials, 0), HIGH: (trials, 1)}
                shared = _run_studies(cluster, Path(folder) / "shared", steps, three)
            finally:
                cluster.close()
        rows.append(_row(name, slots, steps, alone, shared))
        progress(json.dumps(rows[-1]))
    return {"layouts": rows, "load": os.getloadavg()}


def _run_studies(
    cluster: RayCluster, storage: Path, steps: int, studies: Mapping[str, tuple[int, int]]
) -> dict[str, Sequence[Event]]:
    """Run studies, given as name: (trials, priority), and return their journals; HIGH starts when the others train."""
    storage.mkdir()
    journals = {name: storage / name / "outbox" for name in studies}
    running: list[subprocess.Popen[bytes]] = []
    try:
        for name, (trials, priority) in studies.items():
            while name == HIGH and not all(
                any(event.kind == "report" for event in _events(journals[other]))
                for other in studies
                if other != HIGH
            ):
                time.sleep(0.5)
            values = (f"name={name}", f"search.trials={trials}", f"resources.priority={priority}")
            length = (f"training.steps={steps}", f"training.eval_every={steps // REPORTS}")
            command = [
                *(sys.executable, "-P", str(DRIVER), str(storage), cluster.address),
                *(*_SETTINGS, *length, *values),
            ]
            with (storage / f"{name}.log").open("wb") as log:
                environment = os.environ | cluster.environment
                running.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        for name, process in zip(studies, running, strict=True):
            if process.wait() != 0:
                raise RuntimeError((storage / f"{name}.log").read_text()[-2000:])
    finally:
        for process in running:
            process.kill()
    for name, (trials, _) in studies.items():
        _check_complete(storage, name, trials, steps)
    return {name: _events(journal) for name, journal in journals.items()}


def _events(journal: Path) -> Sequence[Event]:
    return read_events(journal).events if journal.exists() else []


def _check_complete(storage: Path, name: str, trials: int, steps: int) -> None:
    """Check that the journal and the database contain every report of every trial exactly once."""
    reports = [*range(steps // REPORTS, steps + 1, steps // REPORTS)]
    stored = {trial.number: sorted(trial.intermediate_values) for trial in open_study(name, storage).trials()}
    assert stored == dict.fromkeys(range(trials), reports), stored
    logged = Counter(
        (event.trial, event.step) for event in _events(storage / name / "outbox") if event.kind == "report"
    )
    assert logged == {(trial, step): 1 for trial in range(trials) for step in reports}, logged


def _spans(events: Sequence[Event]) -> list[tuple[float, float]]:
    """Start and end of each attempt of a trial, in seconds."""
    started: dict[int, float] = {}
    spans = []
    for event in events:
        if event.kind == "trial":
            started[event.trial] = event.time_ms / 1000
        elif event.kind == "end":
            spans.append((started.pop(event.trial), event.time_ms / 1000))
    return spans


def _row(
    name: str,
    slots: int,
    steps: int,
    alone: Mapping[str, Sequence[Event]],
    shared: Mapping[str, Sequence[Event]],
) -> dict[str, Any]:
    before, after = ({study: _spans(events) for study, events in run.items()} for run in (alone, shared))
    seconds = [
        max(end for spans in run.values() for _, end in spans)
        - min(begin for spans in run.values() for begin, _ in spans)
        for run in (before, after)
    ]
    high = shared[HIGH]
    first = next(event for event in high if event.kind == "report")
    training_start = first.time_ms / 1000 - first.step  # a step takes one second
    return {
        "layout": name,
        "slots": slots,
        "steps": steps * sum(event.kind == "end" and event.outcome == "complete" for event in alone["alone"]),
        "seconds_alone": seconds[0],
        "seconds_shared": seconds[1],
        "throughput": seconds[0] / seconds[1],
        "occupied_alone": _occupied(before, slots, seconds[0]),
        "occupied_shared": _occupied(after, slots, seconds[1]),
        "share_error": _share_error(after, slots),
        "seconds_until_high_trains": training_start
        - next(event.time_ms for event in high if event.kind == "study") / 1000,
        "interrupted": sum(
            event.kind == "end" and event.outcome == "interrupted" for run in shared.values() for event in run
        ),
    }


def _occupied(spans: Mapping[str, Sequence[tuple[float, float]]], slots: int, seconds: float) -> float:
    """The share of slot-seconds in which a slot had a trial, including the start of the trial's worker."""
    return sum(end - begin for attempts in spans.values() for begin, end in attempts) / (slots * seconds)


def _share_error(spans: Mapping[str, Sequence[tuple[float, float]]], slots: int) -> float:
    """The mean share of the slots that the sharing rule assigns to another study, while any study has trials."""
    first = {study: min(begin for begin, _ in attempts) for study, attempts in spans.items()}
    last = {study: max(end for _, end in attempts) for study, attempts in spans.items()}
    claims = [
        Claim(study=study, name=study, priority=study == HIGH, slots=slots, demand=0, share=0, arrival=index)
        for index, study in enumerate(sorted(first, key=first.__getitem__))
    ]
    errors = []
    now = min(first.values())
    while now < max(last.values()):
        used = {study: sum(begin <= now < end for begin, end in spans[study]) for study in spans}
        remaining = {study: used[study] + sum(begin > now for begin, _ in spans[study]) for study in spans}
        claims = [
            replace(claim, demand=remaining[claim.study] if first[claim.study] <= now else 0)
            for claim in claims
        ]
        assigned = shares(claims)
        claims = [replace(claim, share=assigned[claim.study]) for claim in claims]
        errors.append(sum(abs(used[study] - assigned[study]) for study in used) / 2 / slots)
        now += 0.2
    return sum(errors) / len(errors)


def headline(result: dict[str, Any]) -> dict[str, str]:
    """The rows for the table of all benchmarks."""
    return {
        f"three studies on {row['layout']}": f"{row['throughput']:.0%} of the throughput of one study, share error "
        f"{row['share_error']:.1%}, the study of higher priority trains after "
        f"{row['seconds_until_high_trains']:.1f} s, {row['interrupted']} trials handed back by checkpoint"
        for row in result["layouts"]
    }


def figure(result: dict[str, Any]) -> "Figure":
    """Throughput, occupied slots and share error of each layout."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 3), layout="constrained")
    axes = drawing.subplots()
    measures = ("throughput", "occupied_alone", "occupied_shared", "share_error")
    for index, row in enumerate(result["layouts"]):
        positions = [number + 0.4 * index for number in range(len(measures))]
        axes.bar(positions, [row[measure] for measure in measures], 0.35, label=row["layout"])
    axes.set_xticks(
        [number + 0.2 for number in range(len(measures))], [name.replace("_", " ") for name in measures]
    )
    axes.legend()
    return drawing
