"""The cost of tracking: reports shipped per second as the store grows, and the overhead for the search.

Baselines in the same run: one `log_batch` per report, as in Ray's callback, directly into the same store; and shipping
on a thread of the driver instead of in a child process. Rates per CPU second cover only the shipper (not a database
server) and are also valid on a loaded machine.
"""

import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxytune.tuning.journal.events import Event, Reported, StudyStarted, TrialEnded, TrialStarted
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.tracking.shipper import CHILD_ENVIRONMENT, Shipper
from tests.benchmarks.synthetic import synthetic_events, synthetic_spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRIAL_SECONDS = 20.0  # of the paced study
SLOTS = 2
NUM_OPEN = 16  # trials that report at the same time
NUM_METRICS = 10
REPORTS_PER_TRIAL = 3


@dataclass(frozen=True)
class Shipped:
    """One measurement of shipping into a store that already has `num_runs` runs."""

    num_runs: int
    reports_per_second: float  # sustained, from a full outbox, 16 trials reporting
    reports_per_cpu_second: float
    trials_per_second: float  # complete trials: start, three reports, end
    one_by_one_per_second: float  # baseline: one log_batch per report


@dataclass(frozen=True)
class DriverRate:
    """Speed of a pure Python loop in the driver while trials are tracked."""

    name: str
    loops_per_second: float
    seconds: float


def run(
    uri: str | None, sizes: list[int], num_reports: int, seconds: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Run all measurements.

    Args:
        uri: the MLflow store; None for a temporary sqlite file.
        sizes: numbers of runs in the store at which to measure.
        num_reports: reports to ship at each size.
        seconds: duration of the study in real time.
        progress: called with a line of text before each part.

    Raises:
        RuntimeError: the store rejects the events; the message contains the reason.
    """
    with _scratch() as folder:
        store = uri or f"sqlite:///{folder / 'mlflow.db'}"
        shipped = [asdict(row) for row in ship_rates(store, folder, sizes, num_reports, progress)]
        progress(f"measuring a study of {TRIAL_SECONDS:g}-second trials for {seconds:g} s")
        share, start = cpu_share(store, folder, seconds)
    progress("measuring a driver's loop during shipping")
    return {
        "store": store.partition(":")[0],
        "shipped": shipped,
        "driver": [asdict(row) for row in driver_cost(40 if seconds < 60 else 200)],
        "share_added_to_20_second_trials": share,
        "shipper_start_cpu_seconds": start,
    }


def headline(result: dict[str, Any]) -> dict[str, str]:
    """The rows for the table of all benchmarks: the largest store, and the overhead for the search."""
    store, row = result["store"].partition("+")[0], result["shipped"][-1]
    return {
        f"MLflow on {store}, {row['num_runs']:,} runs in it": (
            f"{row['reports_per_second']:.0f} reports/s; with a log_batch per report {row['one_by_one_per_second']:.0f}"
        ),
        f"MLflow on {store}, added to 20-second trials on {SLOTS} slots": (
            f"{result['share_added_to_20_second_trials']:.2%} of their CPU time, and "
            f"{result['shipper_start_cpu_seconds']:.1f} CPU seconds once per driver"
        ),
    }


def figure(result: dict[str, Any]) -> "Figure":
    """Rates by number of runs in the store."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7, 4.5), layout="constrained")
    axes = drawn.subplots()
    runs = [row["num_runs"] for row in result["shipped"]]
    for key, name in (
        ("reports_per_second", "shipper"),
        ("reports_per_cpu_second", "shipper, per CPU second"),
        ("one_by_one_per_second", "baseline: one log_batch per report"),
    ):
        axes.plot(runs, [row[key] for row in result["shipped"]], marker="o", label=name)
    target = 500 if result["store"].startswith("postgresql") else 200
    axes.axhline(target, color="grey", linestyle=":", label=f"target: {target} reports/s")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="runs in the store",
        ylabel=f"reports/s ({NUM_METRICS} metrics each)",
        title=f"Shipping to MLflow on {result['store']}",
    )
    axes.legend()
    return drawn


def ship_rates(
    uri: str, folder: Path, sizes: list[int], num_reports: int, progress: Callable[[str], None]
) -> Iterator[Shipped]:
    """Fill the store to each size and measure.

    Raises:
        RuntimeError: the store rejects the events; the message contains the reason.
    """
    num_runs = 0
    for size in sizes:
        progress(f"filling the store with {size} runs")
        if size > num_runs:
            _ship(folder / f"fill-{size}", uri, _complete_trials(size - num_runs, 1))
            num_runs = size
        progress(f"measuring with {size} runs in the store")
        num_trials = max(20, num_reports // 40)
        trial_seconds, _ = _ship(
            folder / f"trials-{size}", uri, _complete_trials(num_trials, REPORTS_PER_TRIAL)
        )
        report_seconds, cpu_seconds = _ship(folder / f"reports-{size}", uri, _open_trials(num_reports))
        yield Shipped(
            num_runs=size,
            reports_per_second=num_reports / report_seconds,
            reports_per_cpu_second=num_reports / cpu_seconds,
            trials_per_second=num_trials / trial_seconds,
            one_by_one_per_second=_one_by_one(uri, max(20, num_reports // 40)),
        )


def driver_cost(num_trials: int) -> Iterator[DriverRate]:
    """The rate of a loop without tracking, during shipping in a child process, and during shipping on a thread."""
    end = time.monotonic() + 5
    yield DriverRate("no tracking", _loop(lambda: time.monotonic() < end), 5.0)
    for name in ("child process", "thread"):
        with _scratch() as folder:
            outbox = Outbox(folder / "study" / "outbox")
            for event in _complete_trials(num_trials, REPORTS_PER_TRIAL):
                outbox.append(event)
            outbox.close()
            uri = f"sqlite:///{folder / 'mlflow.db'}"
            begin = time.monotonic()
            ship = _ship_in_child if name == "child process" else _ship_in_this_process
            thread = threading.Thread(target=ship, args=(folder / "study" / "outbox", uri))
            thread.start()
            rate = _loop(thread.is_alive)
            yield DriverRate(name, rate, time.monotonic() - begin)


def _ship_in_child(outbox_folder: Path, uri: str) -> None:
    shipper = Shipper(outbox_folder, uri, "bench")
    shipper.start()
    shipper.close(600)


def _ship_in_this_process(outbox_folder: Path, uri: str) -> None:
    from proxytune.tuning.tracking.mlflow_sync import MlflowSync

    sync = MlflowSync(outbox_folder, uri, "bench")
    while sync.ship():
        sync.acknowledge()


def _loop(is_running: Callable[[], bool]) -> float:
    """Iterations per second of a driver-like loop while `is_running` returns true."""
    begin = time.monotonic()
    iterations = 0
    while is_running():
        sum(range(2000))
        iterations += 1
    return iterations / (time.monotonic() - begin)


def cpu_share(uri: str, folder: Path, seconds: float) -> tuple[float, float]:
    """The CPU time that tracking adds to a study with 20 s trials, one report per second and one core per slot.

    Returns the share of shipper and outbox together while trials run, and the CPU seconds of a shipper that ships no
    events.
    """
    start = _paced(uri, folder / "start", 0)
    num_trials = int(SLOTS * seconds / TRIAL_SECONDS)
    return (_paced(uri, folder / "paced", num_trials) - start) / (num_trials * TRIAL_SECONDS), start


def _paced(uri: str, folder: Path, num_trials: int, reports: int = 20) -> float:
    """CPU seconds of outbox and shipper for `num_trials` trials that report in real time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    outbox = Outbox(folder / "outbox")
    outbox.append(_study("paced"))
    shipper = Shipper(folder / "outbox", uri, "bench")
    shipper.start()
    while shipper.waiting:
        time.sleep(0.05)
    begin, appending = time.monotonic(), 0.0
    for event in _complete_trials(num_trials, reports):
        if event.kind == "report":
            time.sleep(max(0.0, begin + _due(event, reports) - time.monotonic()))
        started = time.thread_time()
        outbox.append(event)
        appending += time.thread_time() - started
    shipper.close(600)
    outbox.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return appending + after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _due(event: Event, reports: int) -> float:
    """Seconds from the start until a report is due, with trials running one after another on each slot."""
    return float(event.trial + event.step / reports) * TRIAL_SECONDS / SLOTS


def _ship(folder: Path, uri: str, events: Iterator[Event]) -> tuple[float, float]:
    """Seconds, and CPU seconds of the child process, to ship all events of an outbox after the shipper's start."""
    outbox = Outbox(folder / "outbox")
    outbox.append(_study(folder.name))
    shipper = Shipper(folder / "outbox", uri, "bench")
    shipper.start()
    while shipper.waiting:  # the shipper's start is not part of the measurement
        if shipper.error:
            shipper.close(0)
            raise RuntimeError(shipper.error)
        time.sleep(0.02)
    before = _cpu_seconds(shipper)
    for event in events:
        outbox.append(event)
    begin = time.monotonic()
    while shipper.waiting:
        time.sleep(0.05)
    seconds, cpu_seconds = time.monotonic() - begin, _cpu_seconds(shipper) - before
    shipper.close(60)
    outbox.close()
    return seconds, cpu_seconds


def _cpu_seconds(shipper: Shipper) -> float:
    """CPU seconds of the shipper's child process so far."""
    assert shipper._process is not None
    fields = Path(f"/proc/{shipper._process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _one_by_one(uri: str, num_reports: int) -> float:
    """Reports per second with one `log_batch` per report."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("bench")
    assert experiment is not None
    runs = [client.create_run(experiment.experiment_id).info.run_id for _ in range(NUM_OPEN)]
    begin = time.monotonic()
    for step in range(num_reports):
        now_ms = time.time_ns() // 1_000_000
        metrics = [Metric(key, value, now_ms, step) for key, value in _metrics(step).items()]
        client.log_batch(runs[step % NUM_OPEN], metrics)
    return num_reports / (time.monotonic() - begin)


def _study(name: str) -> Event:
    return StudyStarted(time_ms=1, study=name, spec=synthetic_spec(name))


def _metrics(step: int) -> dict[str, float]:
    return {f"metric_{index}": step + index / 7 for index in range(NUM_METRICS)}


def _complete_trials(num_trials: int, num_reports: int) -> Iterator[Event]:
    now_ms = time.time_ns() // 1_000_000
    starts = (event for event in synthetic_events(10**9) if isinstance(event, TrialStarted))
    for number in range(num_trials):
        yield next(starts).model_copy(update={"trial": number, "time_ms": now_ms})
        for step in range(1, num_reports + 1):
            yield Reported(time_ms=now_ms, trial=number, step=step, metrics=_metrics(step))
        yield TrialEnded(time_ms=now_ms, trial=number, step=num_reports, outcome=Outcome.COMPLETE)


def _open_trials(num_reports: int) -> Iterator[Event]:
    now_ms = time.time_ns() // 1_000_000
    starts = (event for event in synthetic_events(10**9) if isinstance(event, TrialStarted))
    for number in range(NUM_OPEN):
        yield next(starts).model_copy(update={"trial": number, "time_ms": now_ms})
    for step in range(num_reports):
        yield Reported(time_ms=now_ms, trial=step % NUM_OPEN, step=step, metrics=_metrics(step))


@contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary folder; the environment variables of the shipper's child process are set meanwhile."""
    before = {key: os.environ.get(key) for key in CHILD_ENVIRONMENT}
    os.environ.update(CHILD_ENVIRONMENT)
    folder = Path(tempfile.mkdtemp(prefix="tracking-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
