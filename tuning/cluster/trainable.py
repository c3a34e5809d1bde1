"""The Ray actor that trains trials, one after another, and reports one TrialUpdate per step.

The driver imports this module too; torch and the trainer are therefore imported only in the worker's methods.
"""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ray import tune

from proxytune.tuning.cluster.ray_private import draining_nodes
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.checkpoints import Checkpoints, ForeignCheckpoint
from proxytune.tuning.trial.gpu import begin_on_gpu, taken_mib
from proxytune.tuning.trial.update import TrialUpdate

if TYPE_CHECKING:
    from proxytune.tuning.trial.trial_run import TrialRun

DRAIN_POLL_SECONDS = 5.0


class TrialTrainable(tune.Trainable):
    """Runs one TrialRun after another.

    Failures of a trial (divergence, out of memory, rejected data, a bug) are reported as a TrialUpdate with an outcome
    that ends the trial. Failures of the machine (OSError, a killed process) are raised: Ray restarts the trial, up to
    max_failures times, and it resumes from its newest checkpoint. A full disk is a TrialUpdate that ends the driver.
    """

    def _make_run(self) -> "TrialRun":
        """The training of the trial assigned to this actor."""
        from proxytune.tuning.trial.trial_run import TrialRun

        return TrialRun(self._spec, self._checkpoints)

    def setup(self, config: dict[str, Any]) -> None:
        self._rays_handler: Callable[[int, FrameType | None], Any] | None = None
        self._training = False
        self._leaving = False
        self._looked = time.monotonic()
        self._begin(config)
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, self._on_sigterm)
            self._rays_handler = before if callable(before) else None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._end()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        update = self._advance()
        if self._leaving or self._node_is_draining():
            self._leave()  # the checkpoint contains this update, which is reported again when the trial resumes
        return {"update": update.to_json(), "device": device_name()}

    def cleanup(self) -> None:
        self._end()

    def _begin(self, config: dict[str, Any]) -> None:
        self._spec = TrialSpec.model_validate_json(config["spec"])
        self._checkpoints = Checkpoints.from_json(config["checkpoints"])
        self._efficiency_folder = Path(config["efficiency"]) if config.get("efficiency") else None
        self._efficiency: dict[str, float] | None = None
        begin_on_gpu(self._spec, config.get("gpu") or 1.0)
        self._run: TrialRun | None = None

    def _advance(self) -> TrialUpdate:
        from proxytune.tuning.trial.efficiency import stored_efficiency
        from proxytune.tuning.trial.trial_run import is_out_of_memory, is_out_of_room

        try:
            if self._efficiency_folder is not None and self._efficiency is None:
                self._efficiency = stored_efficiency(self._spec, self._efficiency_folder)
                return TrialUpdate(step=0, profile=self._efficiency)
            if self._run is None:
                self._run = self._make_run()
            self._training = True
            update = self._run.advance()
        except OSError as error:
            if self._run is None or not is_out_of_room(error):
                raise
            update = TrialUpdate(
                step=self._run.step,
                outcome=Outcome.INTERRUPTED,
                out_of_room=True,
                reason=f"{self._checkpoints.folder}: {error.strerror}",
            )
        except ForeignCheckpoint as error:
            update = TrialUpdate(step=0, outcome=Outcome.INTERRUPTED, foreign=True, reason=str(error))
        except Exception as error:
            step = self._run.step if self._run else 0
            outcome = Outcome.OUT_OF_MEMORY if is_out_of_memory(error) else Outcome.FAILED
            update = TrialUpdate(step=step, outcome=outcome, reason=f"{type(error).__name__}: {error}")
        finally:
            self._training = False
        update = replace(update, gpu_mib=taken_mib(self._spec))
        if update.metrics is not None and self._efficiency is not None:
            update = replace(update, metrics=update.metrics | self._efficiency)
        if update.outcome not in (Outcome.RUNNING, Outcome.COMPLETE):
            self._run = None  # no checkpoint for a trial that ended this way
        return update

    def _end(self) -> None:
        """Save the training state since the last report; the trial has ended or is interrupted."""
        if self._run is not None:
            self._run.save()
            self._run = None

    # A machine about to be removed: write a checkpoint within the grace period, then Ray restarts the trial elsewhere.

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if self._training and self._run is not None:
            self._leaving = True  # the state is consistent only after the running step
            self._run.interrupt()
        else:
            self._leave()

    def _node_is_draining(self) -> bool:
        """Whether Ray was notified that this node will be removed (a spot notice, a pod's end, `ray drain-node`)."""
        if time.monotonic() - self._looked < DRAIN_POLL_SECONDS:
            return False
        self._looked = time.monotonic()
        import ray

        try:
            return ray.get_runtime_context().get_node_id() in draining_nodes()
        except Exception:  # the head may be restarting, which is not a reason to leave
            return False

    def _leave(self) -> None:
        self._end()
        if self._rays_handler is not None:
            self._rays_handler(signal.SIGTERM, None)
        raise SystemExit(1)


def device_name() -> str:
    """Name of the training device: `cpu`, or the GPU that Ray assigned."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
