"""One training outside of a search, on this machine: `proxytune train`."""

from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from proxytune.tuning.data import prepare_task
from proxytune.tuning.errors import ProxytuneError
from proxytune.tuning.progress import data_progress
from proxytune.tuning.trial.trial_run import TrialRun
from proxytune.tuning.trial_spec import TrialSpec


@dataclass(frozen=True)
class Trained:
    """A finished training: its last report and its weights."""

    step: int
    metrics: dict[str, float]
    weights: dict[str, Tensor]


def train_once(spec: TrialSpec, console: Console) -> Trained:
    """Train a configuration to its full budget, with a progress bar.

    Raises:
        DataError: the task's data is missing or damaged.
        ProxytuneError: the training diverged or ran out of memory.
    """
    with data_progress(console, spec.task.name) as report:
        prepare_task(spec.task, report)
    training = TrialRun(spec, folder=None)
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[accuracy]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("training", total=spec.training["steps"], accuracy="")
        while True:
            turn = training.turn()
            progress.update(bar, completed=turn.step)
            if turn.metrics is not None:
                progress.update(bar, accuracy=f"val_accuracy {turn.metrics['val_accuracy']:.4f}")
            if turn.outcome == "complete":
                assert turn.metrics is not None
                return Trained(turn.step, turn.metrics, training.trainer.model.state_dict())
            if turn.outcome != "running":
                raise ProxytuneError(
                    f"the training ended as {turn.outcome} at step {turn.step}: {turn.reason}"
                )
