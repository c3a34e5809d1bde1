"""Trainer: the LRA protocol's optimisation of one classifier, step by step, restorable to the bit on a CPU.

AdamW (eps 1e-6, no weight decay) under OneCycleLR: linear from learning_rate / 25 up to learning_rate over the warm-up,
then linear down to almost nothing at `steps`. As in the protocol the momentum is cycled with it (PyTorch's default):
Adam's beta1 falls from 0.95 to 0.85 during the warm-up and rises back afterwards. No gradient clipping.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from proxytune.models.attention import Trace
from proxytune.models.classifier import Classifier
from proxytune.models.config import ModelConfig
from proxytune.models.errors import ConfigError
from proxytune.models.rules import require_at_least, require_one_of, require_positive
from proxytune.models.warm_start import warm_start

# On a CPU, more tokens at a time run slower: beyond 32 MiB a tensor, glibc maps and unmaps fresh pages for every operation.
# Measured at n = 4096: 14.2 sequences/s in passes of 8, 6.7 in passes of 32 (one Zen 4 thread).
CPU_TOKENS_PER_PASS = 32_768

MOST_STEPS = 10**9

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained.

    Raises:
        ConfigError: a value is out of range.
    """

    steps: int  # optimizer steps in all; decides the schedule
    warmup_steps: int  # 0, or 2 <= warmup_steps < steps
    batch_size: int  # examples an optimizer step
    learning_rate: float  # peak
    eval_every: int  # optimizer steps between evaluations
    precision: str = "auto"  # auto | fp32 | bf16 | fp16 (autocast; fp16 on CUDA only)
    micro_batch_size: int | None = None  # examples a forward pass; None: as many as run fastest on the device
    compile: bool = False  # torch.compile: tens of seconds at the start, the same results up to rounding

    def __post_init__(self) -> None:
        for name in ("steps", "eval_every"):
            require_at_least(name, getattr(self, name), 1, highest=MOST_STEPS)
        require_at_least("warmup_steps", self.warmup_steps, 0, highest=MOST_STEPS)
        require_at_least("batch_size", self.batch_size, 1)
        if self.warmup_steps >= self.steps:
            raise ConfigError(f"warmup_steps is {self.warmup_steps}: it must be below steps {self.steps}")
        if self.warmup_steps == 1:
            raise ConfigError(
                "warmup_steps is 1: OneCycleLR cannot rise within one step; choose 0 or at least 2"
            )
        require_positive("learning_rate", self.learning_rate)
        require_one_of("precision", self.precision, PRECISIONS)
        if self.micro_batch_size is not None:
            require_at_least("micro_batch_size", self.micro_batch_size, 1)


class Batch(Protocol):
    """What train_step and evaluate take.

    Attributes:
        token_ids: any integer dtype, (b, n) or (b, 2, n).
        mask: bool, the same shape, True at valid tokens.
        labels: int64, (b,).
    """

    @property
    def token_ids(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...


class Diverged(ArithmeticError):
    """A loss was NaN or infinite.

    Attributes:
        step: optimizer steps done before.
        value: the loss.
    """

    def __init__(self, step: int, value: float) -> None:
        super().__init__(f"the loss is {value} after {step} optimizer steps")
        self.step = step
        self.value = value


class Trainer:
    """A classifier with its optimizer, schedule and random stream.

    Weights and dropout depend on `seed` only: the global random state is neither read nor left changed.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        training_config: TrainingConfig,
        seed: int = 0,
        device: str = "cpu",
        initial_weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Start from weights drawn from `seed`, or from `initial_weights`, another classifier's state (warm_start.py).

        Raises:
            ConfigError: precision fp16 is asked of a device other than CUDA; initial weights that do not fit.
        """
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
        if initial_weights is not None:
            warm_start(self.model, initial_weights)
        self._compiled = torch.compile(self.model, dynamic=True) if training_config.compile else self.model
        self.optimizer = make_optimizer(self.model)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            max_lr=training_config.learning_rate,
            total_steps=training_config.steps,
            pct_start=training_config.warmup_steps / training_config.steps,
            anneal_strategy="linear",
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.autocast_dtype == torch.float16)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimizer step on `batch`, in micro-batches.

        Returns:
            train_loss (mean cross-entropy over examples), contrastive_loss (mean over layers, unweighted; 0.0 where the
            model has none), learning_rate (of this step), valid_tokens (count).

        Raises:
            Diverged: the loss is NaN or infinite; the weights are then as they were before.
            RuntimeError: all `steps` are done.
        """
        if self.step >= self.config.steps:
            raise RuntimeError(f"all {self.config.steps} steps are done")
        num_examples = len(batch.labels)
        totals = torch.zeros(2, device=self.device)
        self.model.train()
        with self._own_randomness():
            for part in self._passes(batch):
                labels = batch.labels[part].to(self.device)
                share = len(labels) / num_examples
                logits, trace = self._forward(batch, part)
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

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Means over all examples of `batches`, without dropout.

        Returns:
            val_accuracy, val_loss; and for proxies (diagnostics.py), means over layers and each layer's own under the
            name with _layer1, _layer2, ...: proxy_cosine, proxy_rank, token_entropy, proxy_entropy, all on the first
            few sequences.

        Raises:
            Diverged: the loss is NaN or infinite.
            ValueError: there is no example.
        """
        self.model.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        num_examples = 0
        diagnostics: dict[str, float] = {}
        with self._own_randomness():
            for batch in batches:
                for part in self._passes(batch):
                    labels = batch.labels[part].to(self.device)
                    logits, trace = self._forward(batch, part, diagnose=num_examples == 0)
                    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
                    totals += torch.stack([(logits.argmax(dim=-1) == labels).sum(), loss])
                    num_examples += len(labels)
                    if trace.diagnostics:
                        diagnostics = summarize(trace.diagnostics)
        if num_examples == 0:
            raise ValueError("nothing to evaluate: there is no example")
        accuracy, loss_mean = (totals / num_examples).tolist()
        if not math.isfinite(loss_mean):
            raise Diverged(self.step, loss_mean)
        return {"val_accuracy": accuracy, "val_loss": loss_mean, **diagnostics}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """The logits of a batch without dropout, (b, num_classes)."""
        self.model.eval()
        with self._own_randomness():
            return torch.cat([self._forward(batch, part)[0] for part in self._passes(batch)])

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the next step depends on, in types that torch.load(weights_only=True) reads."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random_state": self._random_state,
        }
        return deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the trainer that gave `state` was; it must have had the same configurations."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self._random_state = [stream.cpu() for stream in state["random_state"]]
        self.step = state["step"]

    def _passes(self, batch: Batch) -> Iterator[slice]:
        """The examples of each forward pass."""
        num_examples = len(batch.labels)
        size = self.config.micro_batch_size
        if size is None and self.device.type == "cpu":
            size = max(1, CPU_TOKENS_PER_PASS // batch.token_ids[0].numel())
        size = size or num_examples
        for start in range(0, num_examples, size):
            yield slice(start, start + size)

    def _forward(self, batch: Batch, part: slice, diagnose: bool = False) -> tuple[Tensor, Trace]:
        trace = Trace(diagnose=diagnose)
        token_ids = batch.token_ids[part].to(self.device)
        mask = batch.mask[part].to(self.device)
        with torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            model = self.model if diagnose else self._compiled
            logits = model(token_ids, mask, trace)
        return logits, trace

    def _random_devices(self) -> list[str]:
        return ["cpu"] if self.device.type == "cpu" else ["cpu", str(self.device)]

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Lend the global generators our state, since dropout knows no other, and put theirs back."""
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.set_rng_state(self._random_state[0])
            if cuda:
                torch.cuda.set_rng_state(self._random_state[1], self.device)
            yield
            self._random_state[0] = torch.get_rng_state()
            if cuda:
                self._random_state[1] = torch.cuda.get_rng_state(self.device)


def make_optimizer(model: Classifier) -> torch.optim.AdamW:
    """The protocol's AdamW; the schedule sets its learning rate and beta1 before each step."""
    return torch.optim.AdamW(model.parameters(), eps=1e-6, weight_decay=0.0)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype that `precision` autocasts to on `device`; None is fp32 throughout.

    auto is bf16 on CUDA devices that support it, and fp32 elsewhere.

    Raises:
        ConfigError: fp16 on another device than CUDA.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"precision is 'fp16' on device {str(device)!r}: it needs CUDA; choose bf16 or fp32"
        )
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def summarize(layers: list[dict[str, Tensor]]) -> dict[str, float]:
    """One dict of scalars a layer -> their means, and each layer's own with the suffix _layer1, _layer2, ..."""
    means = {name: torch.stack([layer[name] for layer in layers]).mean().item() for name in layers[0]}
    own = {
        f"{name}_layer{i}": value.item() for i, layer in enumerate(layers, 1) for name, value in layer.items()
    }
    return means | own
