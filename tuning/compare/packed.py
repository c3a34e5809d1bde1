"""Trainings at the same time on one device: what `gpu: auto`, which gives a trial a share of a GPU, gains there."""

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

_barrier: Barrier  # of a process that was started here
MECHANISM = "proxyformer"
START_SECONDS = 300.0  # to import torch, open the device and train two steps, in every process


@dataclass(frozen=True, kw_only=True)
class Packed:
    """`trials` processes that train at once; throughput_ratio is to the first row, None in it."""

    trials: int
    length: int
    sequences_per_second: float  # of all together
    throughput_ratio: float | None = None


def run(
    trials: Sequence[int],
    length: int,
    batch_size: int = 32,
    seconds: float = 10.0,
    device: str = "cuda",
    progress: Callable[[Packed], None] = lambda packed: None,
) -> list[Packed]:
    """Train Proxyformer in each number of processes of `trials` at once, on `device` (cpu: a thread each).

    Args:
        trials: numbers of processes, each at least 1.
        length: tokens a sequence, all valid.
        batch_size: sequences a step.
        seconds: how long every process trains.
        progress: called with each row as it is made.

    Raises:
        InputError: so many do not fit into the device's memory.
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
    """Sequences a second of `many` processes together.

    Raises:
        InputError: their memory does not suffice.
    """
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    barrier = context.Barrier(many)
    with context.Pool(many, _begin, (barrier,)) as pool:
        speeds = pool.starmap(_train, [arguments] * many, chunksize=1)
    fitting = [speed for speed in speeds if speed is not None]
    if len(fitting) < many:
        raise InputError(f"{many} trainings at once do not fit into the device's memory")
    return sum(fitting)


def _begin(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _train(length: int, batch_size: int, seconds: float, device: str) -> float | None:
    """Sequences a second of this process from when all have begun; None if one of them lacks memory."""
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
    """Steps within `seconds`, the last one in part; a step ends by reading its loss, so the device has done it."""
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        trainer.train_step(batch)
        done += 1
    return done * seconds / (time.perf_counter() - began)


def headline(rows: Sequence[Packed]) -> dict[str, str]:
    """What a table of all benchmarks shows."""
    return {
        f"{row.trials} trainings at once": f"{ratio(row.throughput_ratio)} the throughput of {rows[0].trials}"
        for row in rows[1:]
    }


def figure(rows: Sequence[Packed]) -> "Figure":
    """Sequences a second of all together over their number."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(6, 4), layout="constrained")
    axes = drawing.subplots()
    axes.plot([row.trials for row in rows], [row.sequences_per_second for row in rows], marker="o")
    axes.set_xlabel("trainings at once")
    axes.set_ylabel("sequences/s of all")
    axes.set_ylim(bottom=0)
    return drawing


def table(rows: Sequence[Packed]) -> Table:
    """A row for each number of trials."""
    result = Table(title=f"Trainings of {MECHANISM} at once on one device, n = {rows[0].length}")
    for name in ("trials", "sequences/s", "x"):
        result.add_column(name, justify="right")
    for row in rows:
        result.add_row(str(row.trials), f"{row.sequences_per_second:.3g}", ratio(row.throughput_ratio))
    return result
