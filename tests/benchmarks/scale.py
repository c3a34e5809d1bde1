"""Many trials without work on real Ray: wall time, the driver's CPU time and memory, and the time to resume.

Measures the driver's memory per finished trial, and whether the time per trial grows with the number of trials. The
sampler is random, since the cost of an ask is measured by the benchmark `overhead`.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.run.driver import run_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.trial.update import TrialUpdate
from tests.benchmarks.turnaround import REPORTS, NoWorkTrainable, no_work_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLE_SECONDS = 1.0
SIZES = (100, 1_000, 10_000)


def run(
    sizes: Sequence[int] = SIZES, *, ray: bool = True, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure a new study of each size; without Ray, only its controller."""
    measure = _measure if ray else _measure_controller
    return {"studies": [measure(size, progress) for size in sizes]}


def _measure(num_trials: int, progress: Callable[[str], None]) -> dict[str, Any]:
    progress(f"{num_trials} trials")
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        spec = _spec(Path(folder), num_trials)
        samples: list[tuple[int, int]] = []  # (time in ms, PSS in KiB)
        elapsed: list[float] = []  # wall seconds, CPU seconds

        @contextmanager
        def watch(*_: Any) -> Iterator[None]:
            stopped = threading.Event()

            def sample() -> None:
                while True:
                    samples.append((time.time_ns() // 1_000_000, driver_kib()))
                    if stopped.wait(SAMPLE_SECONDS):
                        return

            thread = threading.Thread(target=sample, daemon=True)
            began, cpu = time.perf_counter(), time.process_time()
            thread.start()
            yield
            elapsed.extend((time.perf_counter() - began, time.process_time() - cpu))
            stopped.set()
            thread.join()
            samples.append((time.time_ns() // 1_000_000, driver_kib()))

        began = time.perf_counter()
        study = run_study(spec, trainable=NoWorkTrainable, watch=watch)
        total = time.perf_counter() - began
        assert len(study.trials()) == num_trials
        ends = sorted(
            event.time_ms for event in read_events(spec.folder / "outbox").events if event.kind == "end"
        )
        study.storage.engine.dispose()
        memory = _by_trials(samples, ends)
        result = {
            "trials": num_trials,
            "search_seconds": elapsed[0],
            "total_seconds": total,  # including Ray's start and shutdown, and shipping the last events to MLflow
            "seconds_per_trial": elapsed[0] / num_trials,
            "driver_cpu_milliseconds_per_trial": 1000 * elapsed[1] / num_trials,
            "mib_per_1000_trials": _growth(memory, num_trials),
            "memory": memory,
            "resume_seconds": _resume_seconds(_spec(Path(folder), num_trials + 1)),
        }
    progress(
        f"{num_trials} trials: {result['seconds_per_trial']:.3f} s per trial, "
        f"{result['mib_per_1000_trials']} MiB per 1,000, resumed in {result['resume_seconds']:.2f} s"
    )
    return result


def _measure_controller(
    num_trials: int, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure only the controller in a loop, without Ray: storage, journal and sampler."""
    progress(f"{num_trials} trials without Ray")
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        spec = _spec(Path(folder), num_trials)
        study = begin_study(spec)
        outbox = Outbox(spec.folder / "outbox")
        controller = StudyController(spec, study.optuna, study.storage, outbox)
        controller.reconcile()
        memory: list[tuple[int, float]] = []
        steps = int(spec.training["steps"])
        began, cpu = time.perf_counter(), time.process_time()
        for number in range(num_trials):
            if number % max(1, num_trials // 40) == 0:
                memory.append((number, driver_kib() / 1024))
                progress(
                    f"{number} trials, {time.process_time() - cpu:.0f} s of CPU, {memory[-1][1]:.0f} MiB"
                )
            assignment = controller.next_trial()
            assert assignment is not None
            value = 1.0 - abs(float(assignment.spec.model["dropout"]) - 0.2)
            for report in range(1, REPORTS + 1):
                metrics = {"val_accuracy": value, "val_loss": 1.0 - value}
                outcome = "complete" if report == REPORTS else "running"
                update = TrialUpdate(step=steps * report // REPORTS, metrics=metrics, outcome=outcome)
                controller.receive(assignment.number, update, {})
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        memory.append((num_trials, driver_kib() / 1024))
        outbox.close()
        study.storage.engine.dispose()
        return {
            "trials": num_trials,
            "without_ray": True,
            "search_seconds": seconds,
            "seconds_per_trial": seconds / num_trials,
            "driver_cpu_milliseconds_per_trial": 1000 * cpu_seconds / num_trials,
            "mib_per_1000_trials": _growth(memory, num_trials),
            "memory": memory,
            "resume_seconds": _resume_seconds(_spec(Path(folder), num_trials + 1)),
        }


def _spec(storage: Path, num_trials: int) -> StudySpec:
    spec = no_work_study(storage, num_trials)
    return spec.model_copy(
        update={"search": spec.search.model_copy(update={"sampler": spec.search.sampler.model_copy(update={"name": "random"})})}
    )  # fmt: skip


def driver_kib() -> int:
    """Proportional set size (PSS) of this process, in KiB."""
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError("the kernel does not report the PSS of a process")


def _by_trials(samples: list[tuple[int, int]], ends: list[int]) -> list[tuple[int, float]]:
    """Pairs of finished trials and MiB, about forty of them."""
    import bisect

    points = [(bisect.bisect_right(ends, when), kib / 1024) for when, kib in samples]
    return points[:: max(1, len(points) // 40)] + points[-1:]


def _growth(memory: list[tuple[int, float]], num_trials: int) -> dict[str, float]:
    """MiB per 1,000 trials in each half of the search.

    The time after the last trial is excluded, since Ray collects the results of all trials at the end of its run.
    """
    searching = [point for point in memory if point[0] < num_trials]
    half = len(searching) // 2
    return {"first half": _slope(searching[: half + 1]), "second half": _slope(searching[half:])}


def _slope(points: list[tuple[int, float]]) -> float:
    """MiB per 1,000 trials, by linear regression."""
    import numpy as np

    trials, mib = np.array(points, float).T
    return float(1000 * np.polyfit(trials, mib, 1)[0]) if np.ptp(trials) else 0.0


def _resume_seconds(spec: StudySpec) -> float:
    """Seconds from opening a study to its next trial, in this process."""
    began = time.perf_counter()
    study = begin_study(spec)
    outbox = Outbox(spec.folder / "outbox")
    controller = StudyController(spec, study.optuna, study.storage, outbox)
    controller.reconcile()
    assert controller.next_trial() is not None
    seconds = time.perf_counter() - began
    outbox.close()
    study.storage.engine.dispose()
    return seconds


def headline(result: dict[str, Any]) -> dict[str, str]:
    """The rows for the table of all benchmarks; memory growth only for large studies, where it exceeds noise."""
    rows = {}
    for study in result["studies"]:
        growth = f"driver {study['mib_per_1000_trials']['second half']:.0f} MiB per 1,000 trials; "
        name = f"{study['trials']:,} trials without work{', without Ray' if 'without_ray' in study else ''}"
        rows[name] = (
            f"{study['seconds_per_trial']:.3f} s per trial; {growth if study['trials'] >= 5000 else ''}"
            f"resumed in {study['resume_seconds']:.1f} s"
        )
    return rows


def figure(result: dict[str, Any]) -> "Figure":
    """The driver's memory by finished trials of the largest study, and the seconds per trial of each size."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(12, 5), layout="constrained")
    left, right = drawing.subplots(1, 2)
    largest = result["studies"][-1]
    left.plot(*zip(*largest["memory"], strict=True), marker=".")
    left.set_ylim(bottom=0)
    left.set_xlabel("finished trials")
    left.set_title(
        f"driver memory (PSS) in MiB, {largest['trials']} trials{', without Ray' if 'without_ray' in largest else ''}"
    )
    sizes = [str(study["trials"]) for study in result["studies"]]
    right.bar(sizes, [study["seconds_per_trial"] for study in result["studies"]])
    right.set_xlabel("trials per study")
    right.set_title("seconds per trial without work")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return drawing
