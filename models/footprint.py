"""Predicted costs of a configuration: parameters, FLOPs, peak memory of a training step and of inference.

A whole step runs on tensors without data (dataless.py). Peak memory is the largest sum of live storages, FLOPs are those
of PyTorch's formulas. The prediction takes up to a second of CPU and a few MiB, whatever the sizes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from proxytune.models.attention import Trace
from proxytune.models.classifier import Classifier
from proxytune.models.config import ModelConfig
from proxytune.models.dataless import Dataless
from proxytune.models.optimizer import make_optimizer
from proxytune.models.training import autocast_dtype
from proxytune.models.training_config import TrainingConfig

MIB = 2**20

# The memory of the optimizer does not depend on the training's settings.
ANY_TRAINING = TrainingConfig(steps=1, warmup_steps=0, batch_size=1, learning_rate=1.0, eval_every=1)


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Costs of one forward pass (and backward, and optimizer step) over `batch_size` sequences.

    Bytes are those alive at the peak of the training step; their four parts add up to `training_bytes`. Most gradients are
    not allocated yet at the peak, which occurs early in the backward pass.
    """

    batch_size: int
    parameters: int  # count
    inference_flops_per_sequence: int  # forward; matrix products only, a multiply-add is 2
    training_flops_per_sequence: int  # forward and backward
    parameter_bytes: int  # with buffers
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    inference_bytes: int  # peak, including parameters

    @property
    def training_bytes(self) -> int:
        """Peak memory of a training step."""
        return self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes + self.activation_bytes

    @property
    def training_mib_per_sequence(self) -> float:
        """Peak memory of a training step divided by the batch size."""
        return self.training_bytes / self.batch_size / MIB


def footprint(
    config: ModelConfig,
    batch_size: int,
    length: int | None = None,
    precision: str = "fp32",
    device: str = "cpu",
) -> Footprint:
    """Estimate one pass over `batch_size` examples of `length` tokens (None: max_length), all valid.

    Args:
        config: the model.
        batch_size: examples per pass, i.e. TrainingConfig.micro_batch_size.
        length: at most max_length.
        precision: as TrainingConfig.precision.
        device: cpu or cuda; fused softmax with attention dropout, and `decomposed_dropout: element`, store
            explicit matrices only on a CPU.

    Raises:
        ConfigError: fp16 on a CPU.
    """
    dtype = autocast_dtype(precision, torch.device(device))
    element = config.attention == "proxyformer" and config.decomposed_dropout == "element"
    if device.startswith("cuda") and (config.attention == "softmax" or element):
        config = replace(config, attention_dropout=0.0)
    shape = (batch_size, *([2] if config.num_documents == 2 else []), length or config.max_length)
    with StepCosts() as costs:
        model = Classifier(config)
        optimizer = make_optimizer(model, ANY_TRAINING)
        parameter_bytes = costs.now
        token_ids = torch.zeros(shape, dtype=torch.uint8)
        mask = torch.ones(shape, dtype=torch.bool)
        labels = torch.zeros(batch_size, dtype=torch.int64)

        def forward(trace: Trace) -> Tensor:
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                logits: Tensor = model(token_ids, mask, trace)
                return logits

        costs.restart()
        model.eval()
        with torch.no_grad():
            forward(Trace())
        inference_flops, inference_bytes = costs.flops, costs.peak

        model.train()
        optimizer_bytes = _optimizer_bytes(model, optimizer, costs)
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(costs.add_gradient)
        costs.restart()
        _training_step(forward, optimizer, labels, config.contrastive_weight)
        return Footprint(
            batch_size=batch_size,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            inference_flops_per_sequence=inference_flops // batch_size,
            training_flops_per_sequence=costs.flops // batch_size,
            parameter_bytes=parameter_bytes,
            gradient_bytes=costs.gradients_at_peak,
            optimizer_bytes=optimizer_bytes,
            activation_bytes=costs.peak - parameter_bytes - optimizer_bytes - costs.gradients_at_peak,
            inference_bytes=inference_bytes,
        )


def _optimizer_bytes(model: Classifier, optimizer: torch.optim.Optimizer, costs: StepCosts) -> int:
    """Bytes of the optimizer's state, which exists after an empty step."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = costs.now
    optimizer.step()
    added = costs.now - before
    optimizer.zero_grad()
    return added


def _training_step(
    forward: Callable[[Trace], Tensor],
    optimizer: torch.optim.Optimizer,
    labels: Tensor,
    contrastive_weight: float,
) -> None:
    trace = Trace()
    loss = F.cross_entropy(forward(trace).float(), labels)
    if trace.losses:
        loss = loss + contrastive_weight * torch.stack(trace.losses).mean()
    torch.autograd.backward(loss)
    optimizer.step()


class StepCosts(Dataless):
    """Counts FLOPs, and sums the storages that operations allocate, until they are freed.

    Attributes:
        now: bytes alive.
        peak: maximum of `now` since the last restart.
        gradients_at_peak: bytes of parameters' gradients at the peak.
        flops: of the operations since the last restart.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.gradients = self.gradients_at_peak = self.flops = 0
        self._known: set[int] = set()

    def restart(self) -> None:
        """Reset the peak and the FLOPs. No gradients may be alive."""
        self.peak, self.gradients, self.gradients_at_peak, self.flops = self.now, 0, 0, 0

    def add_gradient(self, parameter: Tensor) -> None:
        """A post-accumulate hook, called once per step for each parameter."""
        self.gradients += parameter.nbytes

    def observe(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Count one operation."""
        if (formula := FLOPS.get(func.overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._known:
            return
        self._known.add(key)
        weakref.finalize(storage, self._forget, key, storage.nbytes()).atexit = False
        self.now += storage.nbytes()
        if self.now > self.peak:
            self.peak, self.gradients_at_peak = self.now, self.gradients

    def _forget(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.now -= num_bytes


def attention_flops(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """FLOPs of a fused attention call on a CPU."""
    return int(sdpa_flop_count(q.shape, k.shape, v.shape))


def attention_backward_flops(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """FLOPs of its backward call, which recomputes the attention matrix."""
    return int(sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape))


# PyTorch's formulas, which do not include the CPU's fused attention.
FLOPS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
}
