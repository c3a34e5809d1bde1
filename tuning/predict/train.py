"""Trainings outside of a search, on this machine: `proxytune train`."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from proxytune.tuning.confirm.racing import interval
from proxytune.tuning.errors import ProxytuneError
from proxytune.tuning.run.data_progress import data_progress
from proxytune.tuning.spec.metrics import bounds_of
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.spec.validation import validated
from proxytune.tuning.trial.data import prepare_task
from proxytune.tuning.trial.trial_run import TrialRun


@dataclass(frozen=True)
class Trained:
    """A finished training: its last report and its weights."""

    step: int
    metrics: dict[str, float]
    weights: dict[str, Tensor]


def train_once(spec: TrialSpec, console: Console, title: str = "training") -> Trained:
    """Train a configuration to its full budget, with a progress bar.

    Raises:
        DataError: the task's data is missing or damaged.
        ProxytuneError: the training diverged or ran out of memory.
    """
    with data_progress(console, spec.task.name) as report:
        prepare_task(spec.task, report)
    training = TrialRun(spec, None)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[accuracy]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(title, total=spec.training["steps"], accuracy="")
        while True:
            update = training.advance()
            progress.update(bar, completed=update.step)
            if update.metrics is not None:
                progress.update(bar, accuracy=f"val_accuracy {update.metrics['val_accuracy']:.4f}")
            if update.outcome is Outcome.COMPLETE:
                assert update.metrics is not None
                return Trained(update.step, update.metrics, training.final_weights)
            if update.outcome is not Outcome.RUNNING:
                raise ProxytuneError(
                    f"the training ended as {update.outcome} at step {update.step}: {update.reason}"
                )


def train_seeds(spec: TrialSpec, num_seeds: int, console: Console) -> list[dict[str, Any]]:
    """Train from `num_seeds` consecutive seeds starting at training.seed; return seed, step and metrics of each.

    Raises:
        DataError: the task's data is missing or damaged.
        ProxytuneError: a training diverged or ran out of memory.
    """
    results = []
    for seed in range(spec.seed, spec.seed + num_seeds):
        values = spec.model_dump()
        trial_spec = validated(
            TrialSpec, values | {"training": values["training"] | {"seed": seed}}, where=None
        )
        trained = train_once(trial_spec, console, f"seed {seed}")
        console.print(f"seed {seed}: val_accuracy {trained.metrics['val_accuracy']:.4f}")
        results.append({"seed": seed, "step": trained.step, "metrics": trained.metrics})
    return results


def over_seeds(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and 95 % interval over seeds of each metric that every seed reported."""
    shared = set.intersection(*(set(result["metrics"]) for result in results))
    columns = {
        name: [result["metrics"][name] for result in results]
        for name in results[0]["metrics"]
        if name in shared
    }
    return {
        name: {"mean": statistics.fmean(values), "interval": interval(values, bounds_of(name))}
        for name, values in columns.items()
    }
