"""Three studies on one cluster against one study of the same work alone, by their journals and databases.

Two studies of priority 0 begin together; one of priority 1 arrives when both train. The nodes are processes here, each with
a folder of its own. Trials wait instead of training, a second per step (`waiting.py`). Drivers, workers, checkpoints and
slots are real, so the benchmark measures the use of the slots, and not eight trainings on two cores.
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
WAITING = Path(__file__).with_name("waiting.py")
HIGH = "high"


def run(
    layouts: Mapping[str, Sequence[int]], trials_a_slot: int, steps: int, progress: Callable[[str], None]
) -> Any:
    """For each layout one study alone, then three that share; a trial takes `steps` seconds, in REPORTS equal parts."""
    rows = []
    for name, cpus in layouts.items():
        slots = sum(cpus)
        with tempfile.TemporaryDirectory(prefix="sharing-") as folder:
            cluster = RayCluster(cpus[0])
            try:
                for place, count in enumerate(cpus[1:]):
                    cluster.add(f"worker{place}", count)
                part = trials_a_slot * slots
                alone = _studies(cluster, Path(folder) / "alone", steps, {"alone": (3 * part, 0)})
                three = {"first": (part, 0), "second": (part, 0), HIGH: (part, 1)}
                shared = _studies(cluster, Path(folder) / "shared", steps, three)
            finally:
                cluster.close()
        rows.append(_row(name, slots, steps, alone, shared))
        progress(json.dumps(rows[-1]))
    return {"layouts": rows, "load": os.getloadavg()}


def _studies(
    cluster: RayCluster, storage: Path, steps: int, wanted: Mapping[str, tuple[int, int]]
) -> dict[str, list[Event]]:
    """Run studies of so many trials and such a priority; HIGH once the others train. Their journals."""
    storage.mkdir()
    journals = {name: storage / name / "outbox" for name in wanted}
    running: list[subprocess.Popen[bytes]] = []
    try:
        for name, (trials, priority) in wanted.items():
            while name == HIGH and not all(
                any(event.kind == "report" for event in _events(journals[other]))
                for other in wanted
                if other != HIGH
            ):
                time.sleep(0.5)
            own = (f"name={name}", f"search.trials={trials}", f"resources.priority={priority}")
            length = (f"training.steps={steps}", f"training.eval_every={steps // REPORTS}")
            line = [
                *(sys.executable, "-P", str(WAITING), str(storage), cluster.address),
                *(*_SETTINGS, *length, *own),
            ]
            with (storage / f"{name}.log").open("wb") as log:
                environment = os.environ | cluster.environment
                running.append(subprocess.Popen(line, stdout=log, stderr=log, env=environment))
        for name, process in zip(wanted, running, strict=True):
            if process.wait() != 0:
                raise RuntimeError((storage / f"{name}.log").read_text()[-2000:])
    finally:
        for process in running:
            process.kill()
    for name, (trials, _) in wanted.items():
        _check_complete(storage, name, trials, steps)
    return {name: _events(journal) for name, journal in journals.items()}


def _events(journal: Path) -> Sequence[Event]:
    return read_events(journal).events if journal.exists() else []


def _check_complete(storage: Path, name: str, trials: int, steps: int) -> None:
    """Nothing lost and nothing twice: each trial has each of its reports once, in the journal and in the database."""
    reports = [*range(steps // REPORTS, steps + 1, steps // REPORTS)]
    stored = {trial.number: sorted(trial.intermediate_values) for trial in open_study(name, storage).trials()}
    assert stored == dict.fromkeys(range(trials), reports), stored
    told = Counter(
        (event.trial, event.step) for event in _events(storage / name / "outbox") if event.kind == "report"
    )
    assert told == {(trial, step): 1 for trial in range(trials) for step in reports}, told


def _out(events: Sequence[Event]) -> list[tuple[float, float]]:
    """From when to when each attempt of a trial was out, in seconds."""
    begun: dict[int, float] = {}
    spans = []
    for event in events:
        if event.kind == "trial":
            begun[event.trial] = event.time_ms / 1000
        elif event.kind == "end":
            spans.append((begun.pop(event.trial), event.time_ms / 1000))
    return spans


def _row(
    name: str,
    slots: int,
    steps: int,
    alone: Mapping[str, Sequence[Event]],
    shared: Mapping[str, Sequence[Event]],
) -> dict[str, Any]:
    before, after = ({study: _out(events) for study, events in run.items()} for run in (alone, shared))
    seconds = [
        max(end for spans in run.values() for _, end in spans)
        - min(begin for spans in run.values() for begin, _ in spans)
        for run in (before, after)
    ]
    high = shared[HIGH]
    first = next(event for event in high if event.kind == "report")
    trains = first.time_ms / 1000 - first.step  # a step takes a second
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
        "seconds_until_high_trains": trains
        - next(event.time_ms for event in high if event.kind == "study") / 1000,
        "given_back": sum(
            event.kind == "end" and event.outcome == "interrupted" for run in shared.values() for event in run
        ),
    }


def _occupied(spans: Mapping[str, Sequence[tuple[float, float]]], slots: int, seconds: float) -> float:
    """Which part of the slots' time trials were out; a trial that waits for its worker counts."""
    return sum(end - begin for own in spans.values() for begin, end in own) / (slots * seconds)


def _share_error(spans: Mapping[str, Sequence[tuple[float, float]]], slots: int) -> float:
    """The mean part of the slots that is not with the study where the rule puts it, while any study has trials."""
    began = {study: min(begin for begin, _ in own) for study, own in spans.items()}
    ended = {study: max(end for _, end in own) for study, own in spans.items()}
    claims = [
        Claim(study=study, name=study, priority=study == HIGH, slots=slots, demand=0, share=0, arrival=place)
        for place, study in enumerate(sorted(began, key=began.__getitem__))
    ]
    errors = []
    now = min(began.values())
    while now < max(ended.values()):
        out = {study: sum(begin <= now < end for begin, end in own) for study, own in spans.items()}
        left = {study: out[study] + sum(begin > now for begin, _ in own) for study, own in spans.items()}
        claims = [
            replace(claim, demand=left[claim.study] if began[claim.study] <= now else 0) for claim in claims
        ]
        ruled = shares(claims)
        claims = [replace(claim, share=ruled[claim.study]) for claim in claims]
        errors.append(sum(abs(out[study] - ruled[study]) for study in out) / 2 / slots)
        now += 0.2
    return sum(errors) / len(errors)


def headline(result: dict[str, Any]) -> dict[str, str]:
    """What a table of all benchmarks shows."""
    return {
        f"three studies on {row['layout']}": f"throughput {row['throughput']:.0%} of one study's, share error "
        f"{row['share_error']:.1%}, a higher priority trains after {row['seconds_until_high_trains']:.1f} s, "
        f"{row['given_back']} trials gave way by checkpoint, none lost or twice"
        for row in result["layouts"]
    }


def figure(result: dict[str, Any]) -> "Figure":
    """Throughput, occupied slots and share error of each layout."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 3), layout="constrained")
    axes = drawing.subplots()
    measures = ("throughput", "occupied_alone", "occupied_shared", "share_error")
    for place, row in enumerate(result["layouts"]):
        places = [number + 0.4 * place for number in range(len(measures))]
        axes.bar(places, [row[measure] for measure in measures], 0.35, label=row["layout"])
    axes.set_xticks(
        [number + 0.2 for number in range(len(measures))], [name.replace("_", " ") for name in measures]
    )
    axes.legend()
    return drawing
