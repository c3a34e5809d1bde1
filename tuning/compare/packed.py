"""Measures concurrent trainings on one device: the gain of `gpu: auto`, which assigns a trial a share of a GPU."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table

from proxytune.models.training import Trainer
from proxytune.tuning.compare.mechanisms import model_config, ratio, steps_of
from proxytune.tuning.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_barrier: Barrier  # set in each child process
MECHANISM = "proxyformer"
START_SECONDS = 300.0  # to import torch, open the device and train two steps, in every process


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A run of `trials` concurrent processes; throughput_ratio is relative to the first row, and None there."""

    trials: int
    length: int
    sequences_per_second: float  # summed over all processes
    throughput_ratio: float | None = None


def run(
    trials: Sequence[int],
    length: int,
    batch_size: int = 32,
    seconds: float = 10.0,
    device: str = "cuda",
    progress: Callable[[Packed], None] = lambda packed: None,
) -> list[Packed]:
    """Train Proxyformer in each number of concurrent processes on `device` (on a CPU with one thread per process).

    Args:
        trials: numbers of processes, each at least 1.
        length: tokens per sequence, all valid.
        batch_size: sequences per step.
        seconds: training time of every process.
        progress: called with each finished row.

    Raises:
        InputError: the processes do not fit into the device's memory.
    """
    rows: list[Packed] = []
    for many in trials:
        speed = _together(many, length, batch_size, seconds, device)
        first = rows[0].sequences_per_second if rows else None
        row = Packed(
            trials=many,
            length=length,
            sequences_per_second=speed,
            throughput_ratio=None if first is None else speed / first,
        )
        progress(row)
        rows.append(row)
    return rows


def _together(many: int, *arguments: Any) -> float:
    """Total sequences per second of `many` processes.

    Raises:
        InputError: the processes do not fit into the device's memory.
    """
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    barrier = context.Barrier(many)
    with context.Pool(many, _begin, (barrier,)) as pool:
        speeds = pool.starmap(_train, [arguments] * many, chunksize=1)
    fitting = [speed for speed in speeds if speed is not None]
    if len(fitting) < many:
        raise InputError(f"{many} concurrent trainings do not fit into the device's memory")
    return sum(fitting)


def _begin(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _train(length: int, batch_size: int, seconds: float, device: str) -> float | None:
    """Sequences per second of this process after all have started; None if a process is out of memory."""
    torch.set_num_threads(1)
    try:
        trainer, batch = steps_of(model_config(MECHANISM, length), batch_size, 1_000_000, device)
        for _ in range(2):
            trainer.train_step(batch)
        _barrier.wait(START_SECONDS)
    except torch.OutOfMemoryError:
        _barrier.abort()
        return None
    except BrokenBarrierError:
        return None
    return _count(trainer, batch, seconds) * batch_size / seconds


def _count(trainer: Trainer, batch: Any, seconds: float) -> float:
    """Steps within `seconds`, the last step counted in part. Each step reads its loss, which synchronises the device."""
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        trainer.train_step(batch)
        done += 1
    return done * seconds / (time.perf_counter() - began)


def headline(rows: Sequence[Packed]) -> dict[str, str]:
    """The figures shown in the table of all benchmarks."""
    return {
        f"{row.trials} concurrent trainings": f"{ratio(row.throughput_ratio)} the throughput of {rows[0].trials}"
        for row in rows[1:]
    }


def figure(rows: Sequence[Packed]) -> "Figure":
    """Total sequences per second over the number of processes."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(6, 4), layout="constrained")
    axes = drawing.subplots()
    axes.plot([row.trials for row in rows], [row.sequences_per_second for row in rows], marker="o")
    axes.set_xlabel("concurrent trainings")
    axes.set_ylabel("total sequences/s")
    axes.set_ylim(bottom=0)
    return drawing


def table(rows: Sequence[Packed]) -> Table:
    """A table with a row for each number of trials."""
    result = Table(title=f"Concurrent trainings of {MECHANISM} on one device, n = {rows[0].length}")
    for name in ("trials", "sequences/s", "x"):
        result.add_column(name, justify="right")
    for row in rows:
        result.add_row(str(row.trials), f"{row.sequences_per_second:.3g}", ratio(row.throughput_ratio))
    return result
