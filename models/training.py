"""Trainer: optimises one classifier by the LRA protocol, step by step; resuming is bit-exact on a CPU."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from proxytune.models.attention import Trace
from proxytune.models.classifier import Classifier
from proxytune.models.classifier_diagnostics import FewExamples, diagnose
from proxytune.models.config import ModelConfig
from proxytune.models.errors import ConfigError
from proxytune.models.optimizer import make_optimizer, make_schedule, named_proxies, update_sizes
from proxytune.models.passes import CPU_TOKENS_PER_PASS, Batch, split_into_passes
from proxytune.models.training_config import TrainingConfig, check_together

__all__ = [
    "CPU_TOKENS_PER_PASS",
    "Batch",
    "Diverged",
    "Trainer",
    "TrainingConfig",
    "autocast_dtype",
    "check_together",
]


class Diverged(ArithmeticError):
    """The loss is NaN or infinite.

    Attributes:
        step: number of completed optimizer steps.
        value: the loss.
    """

    def __init__(self, step: int, value: float) -> None:
        super().__init__(f"the loss is {value} after {step} optimizer steps")
        self.step = step
        self.value = value


class Trainer:
    """A classifier with its optimizer, schedule and random stream.

    Weights and dropout depend only on `seed`. The global random state is not read, and is restored after use.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        training_config: TrainingConfig,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        """Initialise the weights from `seed`.

        Raises:
            ConfigError: precision fp16 on a device other than CUDA, or the two configurations contradict each other
                (check_together).
        """
        check_together(model_config, training_config)
        self.model_config = model_config
        self.config = training_config
        self.device = torch.device(device)
        self.autocast_dtype = autocast_dtype(training_config.precision, self.device)
        self.step = 0
        self._random_state = [
            torch.Generator(kind).manual_seed(seed).get_state() for kind in self._random_devices()
        ]
        with self._own_randomness():
            self.model = Classifier(model_config).to(self.device)
        self._first_proxies = {
            name: weight.detach().clone() for name, weight in named_proxies(self.model).items()
        }
        self._compiled = torch.compile(self.model, dynamic=True) if training_config.compile else self.model
        self.optimizer = make_optimizer(self.model, training_config)
        self.schedule = make_schedule(self.optimizer, training_config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.autocast_dtype == torch.float16)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimizer step on `batch`, in micro-batches.

        Returns:
            train_loss (mean cross-entropy over examples), contrastive_loss (mean over layers, unweighted; 0.0 if the
            model has none), learning_rate (of this step, for all weights but the proxies), valid_tokens (count).

        Raises:
            Diverged: the loss is NaN or infinite; the weights are unchanged.
            RuntimeError: all `steps` are done.
        """
        if self.step >= self.config.steps:
            raise RuntimeError(f"all {self.config.steps} steps are done")
        num_examples = len(batch.labels)
        totals = torch.zeros(2, device=self.device)
        self.model.train()
        with self._own_randomness():
            for rows, length in self._passes(batch):
                labels = batch.labels[rows].to(self.device)
                share = len(labels) / num_examples
                logits, trace = self._forward(batch, rows, length)
                cross_entropy = F.cross_entropy(logits.float(), labels)
                contrastive = (
                    torch.stack(trace.losses).mean() if trace.losses else torch.zeros_like(cross_entropy)
                )
                loss = (cross_entropy + self.model_config.contrastive_weight * contrastive) * share
                torch.autograd.backward(self.scaler.scale(loss))
                totals += torch.stack([cross_entropy, contrastive]).detach() * share
        train_loss, contrastive_loss = totals.tolist()
        if not math.isfinite(train_loss + contrastive_loss):
            self.optimizer.zero_grad()
            raise Diverged(self.step, train_loss if not math.isfinite(train_loss) else contrastive_loss)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self._clip_gradient()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.step += 1
        return {
            "train_loss": train_loss,
            "contrastive_loss": contrastive_loss,
            "learning_rate": learning_rate,
            "valid_tokens": int(batch.mask.sum()),
        }

    def _clip_gradient(self) -> None:
        norm, value = self.config.gradient_clip_norm, self.config.gradient_clip_value
        if norm is None and value is None:
            return
        self.scaler.unscale_(self.optimizer)
        if norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), norm)
        if value is not None:
            torch.nn.utils.clip_grad_value_(self.model.parameters(), value)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Means over all examples of `batches`, without dropout.

        Returns:
            val_accuracy, val_loss; the diagnostics of classifier_diagnostics.py on a few evenly spaced examples: means over
            layers, and each layer's values with the suffix _layer1, _layer2, ...; and update_sizes of the last step.

        Raises:
            Diverged: the loss is NaN or infinite.
            ValueError: `batches` has no examples.
        """
        self.model.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        num_examples = 0
        few = FewExamples()
        with self._own_randomness():
            for batch in batches:
                few.offer(batch)
                for rows, length in self._passes(batch):
                    labels = batch.labels[rows].to(self.device)
                    logits, _ = self._forward(batch, rows, length)
                    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
                    totals += torch.stack([(logits.argmax(dim=-1) == labels).sum(), loss])
                    num_examples += len(labels)
        if num_examples == 0:
            raise ValueError("nothing to evaluate: there is no example")
        accuracy, loss_mean = (totals / num_examples).tolist()
        if not math.isfinite(loss_mean):
            raise Diverged(self.step, loss_mean)
        with self._autocast():
            diagnostics = diagnose(self.model, few.examples(self.device), self._first_proxies)
        return {
            "val_accuracy": accuracy,
            "val_loss": loss_mean,
            **diagnostics,
            **update_sizes(self.optimizer),
        }

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """The logits of a batch without dropout, (b, num_classes)."""
        self.model.eval()
        with self._own_randomness():
            passes = [(rows, self._forward(batch, rows, length)[0]) for rows, length in self._passes(batch)]
        order = torch.cat([rows for rows, _ in passes]).to(self.device)
        return torch.cat([logits for _, logits in passes])[order.argsort()]

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state that the next step depends on, in types that torch.load(weights_only=True) accepts."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random_state": self._random_state,
            "first_proxies": self._first_proxies,
        }
        return deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a trainer with the same configurations.

        Raises:
            ConfigError: the state is from proxytune 0.1, whose optimizer had no group for the proxies.
        """
        if "first_proxies" not in state:
            raise ConfigError(
                "the checkpoint is from proxytune 0.1, whose optimizer had no group for the proxies: "
                "it cannot be resumed; start a new study"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        streams = [stream.cpu() for stream in state["random_state"]]
        own = self._random_state[len(streams) :]  # that of the GPU, if the state is from a CPU
        self._random_state = [*streams, *own]
        self._first_proxies = {
            name: weight.to(self.device) for name, weight in state["first_proxies"].items()
        }
        self.step = state["step"]

    def _passes(self, batch: Batch) -> Iterator[tuple[Tensor, int]]:
        """The row numbers and the length of each forward pass."""
        tokens = CPU_TOKENS_PER_PASS if self.device.type == "cpu" else None
        return split_into_passes(batch, self.config.micro_batch_size, tokens)

    def _forward(self, batch: Batch, rows: Tensor, length: int) -> tuple[Tensor, Trace]:
        trace = Trace()
        token_ids = batch.token_ids[rows, ..., :length].to(self.device)
        mask = batch.mask[rows, ..., :length].to(self.device)
        with self._autocast():
            logits = self._compiled(token_ids, mask, trace)
        return logits, trace

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def _random_devices(self) -> list[str]:
        return ["cpu"] if self.device.type == "cpu" else ["cpu", str(self.device)]

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Run with this trainer's random state in the global generators, which dropout uses, and restore them afterwards."""
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.set_rng_state(self._random_state[0])
            if cuda:
                torch.cuda.set_rng_state(self._random_state[1], self.device)
            yield
            self._random_state[0] = torch.get_rng_state()
            if cuda:
                self._random_state[1] = torch.cuda.get_rng_state(self.device)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype that `precision` autocasts to on `device`; None is fp32 throughout.

    auto is bf16 on CUDA devices that support it, and fp32 elsewhere.

    Raises:
        ConfigError: fp16 on a device other than CUDA.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"precision is 'fp16' on device {str(device)!r}: it needs CUDA; choose bf16 or fp32"
        )
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
