"""A training as a sequence of short updates, after each of which it can be stopped and resumed from a checkpoint."""

import errno
import math
import socket
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch

from proxytune.datasets import Batch, DataError, TrainBatches, evaluation_batches
from proxytune.models.training import Diverged, Trainer
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.checkpoints import Checkpoints
from proxytune.tuning.trial.data import prepare_task
from proxytune.tuning.trial.profile import predicted_profile, trial_device
from proxytune.tuning.trial.slot import shared_slot
from proxytune.tuning.trial.update import TrialUpdate

EVALUATION_BATCH_SIZE = 128


def is_out_of_room(error: OSError) -> bool:
    """Whether a disk is full, over its quota or read-only."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine or a device ran out of memory; torch's CPU allocator reports this only in the message."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@dataclass(frozen=True, kw_only=True)
class Best:
    """The evaluation with the highest validation accuracy so far, the earliest of equals."""

    step: int
    val_accuracy: float
    weights: dict[str, torch.Tensor] | None  # None: training.final_weights is last


def final_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of a trial's checkpoint that its test and its export use (RunConfig.final_weights)."""
    best = state["best"]
    weights: dict[str, torch.Tensor] | None = best["weights"] if best else None
    return state["trainer"]["model"] if weights is None else weights


def final_accuracy(spec: TrialSpec, metrics: Mapping[str, float]) -> float:
    """The validation accuracy of the final weights, from the trial's last report."""
    return metrics["best_val_accuracy" if spec.run_config().final_weights == "best" else "val_accuracy"]


class TrialRun:
    """Trains one configuration. With checkpoints it resumes from the newest valid one.

    Raises:
        ForeignCheckpoint: the checkpoints belong to another trial, configuration, study or data.
        DataError: the task's data is missing or damaged, or differs from that of the checkpoints' owner.
        ConfigError: the model cannot be built.
    """

    update_seconds: ClassVar[float] = 2.0
    """Maximum duration of an update, so that a stop takes effect within a few seconds."""

    def __init__(self, spec: TrialSpec, checkpoints: Checkpoints | None) -> None:
        torch.set_num_threads(spec.resources.cpu)
        self._prepared = prepare_task(spec.task)
        self._checkpoints = checkpoints and self._bound(checkpoints)
        self._training = spec.training_config()
        self.trainer = Trainer(
            spec.model_config_for(self._prepared.info),
            self._training,
            seed=spec.seed,
            device=trial_device(spec),
        )
        self._run = spec.run_config()
        self._batches = TrainBatches(
            self._prepared.train,
            batch_size=self._training.batch_size,
            seed=spec.seed,
            order=self._run.batch_order,
        )
        self._spec = spec
        self._since_report = _Sums()
        self._seconds = 0.0
        self._report: tuple[int, dict[str, float]] | None = (
            None  # the newest report, perhaps not yet delivered
        )
        self._best: Best | None = None
        self._reported = 0  # the step of the last delivered report
        self._saved = 0
        self._interrupted = False
        self._notes: list[str] = []
        if self._checkpoints is not None:
            self._resume(self._checkpoints)

    def _bound(self, checkpoints: Checkpoints) -> Checkpoints:
        """The checkpoints, bound to this node's data. A node's root may hold another version than the driver's."""
        own, expected = self.fingerprint, checkpoints.owner.data
        if expected not in (None, own):
            raise DataError(
                f"the data on node {socket.gethostname()} ({own[:12]}) differ from the driver's ({expected[:12]}): "
                "provide the same data in task.root on every node"
            )
        return checkpoints.trained_on(own)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the training data."""
        return self._prepared.fingerprint

    @property
    def final_weights(self) -> dict[str, torch.Tensor]:
        """The weights that an export uses (RunConfig.final_weights)."""
        kept = self._best.weights if self._best is not None else None
        return self.trainer.model.state_dict() if kept is None else kept

    @property
    def step(self) -> int:
        """Number of completed optimizer steps."""
        return self.trainer.step

    def advance(self) -> TrialUpdate:
        """Train until the next evaluation, the end of training, or the end of the update's time.

        Raises:
            OSError: the checkpoint could not be written.
        """
        with shared_slot():
            return self._advance()

    def _advance(self) -> TrialUpdate:
        try:
            if self._report is not None and self._report[0] > self._reported:
                return self._deliver()  # from before an interruption: it may not have been received
            started = time.monotonic()
            while not self._interrupted and (self.step < self._training.steps or self._evaluation_is_due()):
                if self._evaluation_is_due():
                    self._evaluate()
                    self.save()
                    return self._deliver()
                self._train_step()
                if time.monotonic() - started > self.update_seconds and not self._evaluation_is_due():
                    break
            return TrialUpdate(step=self.step, notes=self._take_notes())
        except _Interrupted:
            return TrialUpdate(step=self.step, notes=self._take_notes())
        except Diverged as error:
            return TrialUpdate(step=self.step, outcome=Outcome.DIVERGED, reason=str(error))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return TrialUpdate(
                step=self.step, outcome=Outcome.OUT_OF_MEMORY, reason=str(error) or "out of memory"
            )

    def interrupt(self) -> None:
        """End the running `advance` after its training step or evaluation batch. For signal handlers."""
        self._interrupted = True

    def _evaluation_is_due(self) -> bool:
        """Whether this step has an evaluation that is not done yet (it may have been interrupted)."""
        due = self.step > 0 and self.step % self._training.eval_every == 0
        return (due or self.step >= self._training.steps) and self._evaluated < self.step

    @property
    def _evaluated(self) -> int:
        return self._report[0] if self._report is not None else 0

    def save(self) -> None:
        """Write a checkpoint of the current step, unless the last one has the same step."""
        if self._checkpoints is None or self.step == self._saved:
            return
        state = {
            "trainer": self.trainer.state_dict(),
            "batches": self._batches.state_dict(),
            "since_report": asdict(self._since_report),
            "seconds": self._seconds,
            "report": None if self._report is None else {"step": self._report[0], "metrics": self._report[1]},
            "best": None if self._best is None else vars(self._best),
        }
        self._checkpoints.save(self.step, state)
        self._saved = self.step

    def _resume(self, checkpoints: Checkpoints) -> None:
        state, refused = checkpoints.newest()
        self._notes += refused
        if state is None:
            return
        self.trainer.load_state_dict(state["trainer"])
        self._batches.load_state_dict(state["batches"])
        self._since_report = _Sums(**state["since_report"])
        self._seconds = state["seconds"]
        if state["report"] is not None:
            self._report = (state["report"]["step"], state["report"]["metrics"])
        if state["best"] is not None:
            self._best = Best(**state["best"])
        self._saved = self.step

    def _train_step(self) -> None:
        started = time.perf_counter()
        result = self.trainer.train_step(next(self._batches))
        elapsed = time.perf_counter() - started
        self._since_report.add(result, elapsed)
        self._seconds += elapsed

    def _evaluate(self) -> None:
        started = time.perf_counter()
        metrics = self.trainer.evaluate(self._validation_batches())
        self._seconds += time.perf_counter() - started
        # Not predicted earlier: it takes up to a second of CPU and would delay the first step.
        predicted = predicted_profile(self._spec, trial_device(self._spec))
        metrics |= self._since_report.means() | predicted | {"seconds": self._seconds}
        if not math.isfinite(metrics["val_loss"]):
            raise Diverged(self.step, metrics["val_loss"])
        if self._best is None or metrics["val_accuracy"] > self._best.val_accuracy:
            keep = self._run.final_weights == "best"
            weights = deepcopy(self.trainer.model.state_dict()) if keep else None
            self._best = Best(step=self.step, val_accuracy=metrics["val_accuracy"], weights=weights)
        metrics |= {"best_val_accuracy": self._best.val_accuracy, "best_step": float(self._best.step)}
        self._since_report = _Sums()
        self._report = (self.step, metrics)

    def _validation_batches(self) -> Iterator[Batch]:
        for batch in evaluation_batches(self._prepared.validation, batch_size=EVALUATION_BATCH_SIZE):
            if self._interrupted:
                raise _Interrupted
            yield batch

    def _deliver(self) -> TrialUpdate:
        assert self._report is not None
        step, metrics = self._report
        self._reported = step
        outcome = Outcome.COMPLETE if step == self._training.steps else Outcome.RUNNING
        return TrialUpdate(step=step, metrics=metrics, outcome=outcome, notes=self._take_notes())

    def _take_notes(self) -> tuple[str, ...]:
        notes, self._notes = tuple(self._notes), []
        return notes


class _Interrupted(Exception):
    """`interrupt` was called during an evaluation."""


@dataclass
class _Sums:
    """Sums over the training steps between two reports."""

    steps: int = 0
    train_loss: float = 0.0
    contrastive_loss: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0

    def add(self, result: dict[str, Any], seconds: float) -> None:
        self.steps += 1
        self.train_loss += result["train_loss"]
        self.contrastive_loss += result["contrastive_loss"]
        self.tokens += result["valid_tokens"]
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        return {
            "train_loss": self.train_loss / self.steps,
            "contrastive_loss": self.contrastive_loss / self.steps,
            "tokens_per_second": self.tokens / self.seconds,
        }
