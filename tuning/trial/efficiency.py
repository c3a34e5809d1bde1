"""Training and inference speed and memory of a configuration, measured on real batches of the task."""

import hashlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proxytune.datasets import TrainBatches
from proxytune.datasets.arrow_store import Split
from proxytune.datasets.batches import Batch, Order, collate
from proxytune.models.training import Trainer
from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.folder import write_file
from proxytune.tuning.trial.data import prepare_task
from proxytune.tuning.trial.profile import cost_spec, predicted_profile, trial_device
from proxytune.tuning.trial.slot import exclusive_slot

NUM_BATCHES = 4
"""Number of timed batches: one from each quarter of the task's batches by length."""
_DRAWN = 64  # batches from which they are selected
_MIB = 2**20


def measure_efficiency(spec: TrialSpec, *, seconds: float = 2.0) -> dict[str, float]:
    """Measure the configuration in this process, on `trial_device` with resources.cpu threads.

    A speed is the number of sequences in NUM_BATCHES real batches divided by the sum of their median times, after one
    warm-up pass. The batches are the same for every configuration of a task and batch size. The caller must ensure that
    nothing else trains on this machine (`exclusive_slot`).

    Args:
        spec: the trial; its seed, steps, schedule and rates have no effect.
        seconds: duration of the timed passes, for training and inference each; at least one pass is timed.

    Returns:
        train_sequences_per_second (whole optimizer steps), inference_sequences_per_second (forward passes without
        dropout, the trainer's batch size), train_memory_mib_per_sequence (on CUDA the peak of a step on the longest
        rows, padded to the task's length; else the prediction), flops_per_sequence, parameters.

    Raises:
        DataError: the task's data is missing or damaged.
        ConfigError: the model cannot be built on this machine.
        Diverged: the loss of the first steps is not finite.
        torch.OutOfMemoryError, MemoryError: it does not fit into memory.
    """
    prepared = prepare_task(spec.task)
    device = trial_device(spec)
    training = replace(spec.training_config(), steps=10**9, warmup_steps=0, learning_rate=1e-9)
    profile = predicted_profile(spec, device)
    with threads(spec.resources.cpu):
        trainer = Trainer(spec.model_config_for(prepared.info), training, seed=0, device=device)
        if device == "cuda":
            longest = np.argsort(prepared.train.lengths, kind="stable")[-training.batch_size :]
            torch.cuda.reset_peak_memory_stats()
            trainer.train_step(collate(prepared.train, longest, full_padding=True))
            sequences = min(training.micro_batch_size or training.batch_size, training.batch_size)
            profile[MEMORY] = torch.cuda.max_memory_allocated() / _MIB / sequences
        train = typical_batches(prepared.train, training.batch_size, spec.run_config().batch_order)
        validation = typical_batches(prepared.validation, min(training.batch_size, len(prepared.validation)))
        clock = _clock(device)
        return profile | {
            "train_sequences_per_second": sequences_per_second(trainer.train_step, train, seconds, clock),
            "inference_sequences_per_second": sequences_per_second(
                trainer.predict, validation, seconds, clock
            ),
        }


def training_speed(spec: TrialSpec, *, tokens: int) -> float:
    """Sequences trained per second, from one timed pass over random full-length sequences. No data is needed.

    Less accurate than `measure_efficiency`, but takes only a tenth of a second to a few seconds: one pass over about
    `tokens` tokens.
    """
    info, device = spec.task.info(), trial_device(spec)
    size = max(1, tokens // (info.max_length * info.num_documents))
    size = min(size, int(spec.training["batch_size"]))
    shape = (size, 2, info.max_length) if info.num_documents == 2 else (size, info.max_length)
    token_ids = torch.randint(1, info.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    batch = Batch(token_ids, torch.ones(shape, dtype=torch.bool), torch.zeros(size, dtype=torch.int64))
    training = replace(spec.training_config(), steps=10**9, warmup_steps=0, learning_rate=1e-9)
    with threads(spec.resources.cpu):
        trainer = Trainer(spec.model_config_for(info), training, seed=0, device=device)
        return sequences_per_second(trainer.train_step, [batch], 0.0, _clock(device))


def typical_batches(split: Split, batch_size: int, order: Order = "uniform") -> list[Batch]:
    """NUM_BATCHES of the split's first training batches: the middle one of each quarter by padded length."""
    drawn = list(islice(TrainBatches(split, batch_size=batch_size, seed=0, order=order), _DRAWN))
    drawn.sort(key=lambda batch: batch.token_ids.shape[-1])
    return [drawn[(2 * quarter + 1) * len(drawn) // (2 * NUM_BATCHES)] for quarter in range(NUM_BATCHES)]


def sequences_per_second(
    work: Callable[[Batch], Any], batches: Sequence[Batch], seconds: float, clock: Callable[[], float]
) -> float:
    """Sequences per second by the median time of each batch. Passes are timed for `seconds`, at least one, after warm-up."""
    for batch in batches:
        work(batch)
    times: list[list[float]] = [[] for _ in batches]
    began = clock()
    while not times[0] or clock() - began < seconds:
        for batch, own in zip(batches, times, strict=True):
            started = clock()
            work(batch)
            own.append(clock() - started)
    return sum(len(batch.labels) for batch in batches) / sum(map(statistics.median, times))


def _clock(device: str) -> Callable[[], float]:
    """A clock in seconds that first waits for the queued work of the device."""

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    return now


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run PyTorch's CPU kernels on `number` threads within this context."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stored_efficiency(spec: TrialSpec, folder: Path) -> dict[str, float]:
    """The configuration's efficiency, read from `folder`, or measured in the exclusive slot and stored there.

    There is one file for each `efficiency_key`. Configurations that differ only in seed, rates or temperature share a
    file. Two machines that need the same file at the same time both measure. A file with other content is replaced.

    Raises:
        OSError: the folder cannot be written.
        Other errors as in `measure_efficiency`.
    """
    facts = _key_facts(spec)
    path = folder / f"{efficiency_key(spec)}.json"
    if (known := _read(path, facts)) is not None:
        return known
    with exclusive_slot():
        if (known := _read(path, facts)) is not None:  # measured by another trial in the meantime
            return known
        measured = measure_efficiency(spec)
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(facts | {"efficiency": measured})
        write_file(path, content.encode())  # before the slot is released: the next waiting trial must find it
    return measured


def efficiency_key(spec: TrialSpec) -> str:
    """Hash of all that an efficiency on this machine depends on: cost spec, data, threads and device."""
    return hashlib.sha256(json.dumps(_key_facts(spec), sort_keys=True).encode()).hexdigest()[:32]


def _key_facts(spec: TrialSpec) -> dict[str, Any]:
    device = trial_device(spec)
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    costs = json.loads(json.dumps(cost_spec(spec)))  # tuples become lists, as in the stored file
    data = prepare_task(spec.task).fingerprint
    return {"costs": costs, "data": data, "threads": spec.resources.cpu, "device": name}


def processor() -> str:
    """The CPU's model name from /proc/cpuinfo."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _read(path: Path, facts: dict[str, Any]) -> dict[str, float] | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        values: dict[str, float] = stored.pop("efficiency")
    except (OSError, ValueError, KeyError):
        return None
    return values if stored == facts else None
