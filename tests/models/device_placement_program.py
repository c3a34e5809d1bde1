"""A training step of every mechanism on a simulated device whose tensors have shapes but no data.

As on CUDA, an operation on tensors of two devices is an error. Reading a value back to the CPU (`item`, `nonzero`), which
would synchronize with a GPU, is also an error. Autocast does not support the device; the tests marked `gpu` cover it.

The device is registered for the lifetime of a process, so this is a separate program. It prints the outcome of each case as
JSON.
"""

from __future__ import annotations

import json
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration

from proxytune.models.attention import MECHANISMS, Trace
from proxytune.models.classifier import Classifier
from proxytune.models.config import CONTRASTS, INJECTIONS, ModelConfig

DEVICE = "simulated"
BATCH, LENGTH = 4, 72
CASES: dict[str, dict[str, Any]] = {
    **{name: {"attention": name} for name in MECHANISMS},
    **{
        f"contrast {contrast}, injection {injection}": {
            "attention": "proxyformer",
            "contrastive": contrast,
            "injection": injection,
        }
        for contrast, injection in zip(CONTRASTS, cycle(INJECTIONS), strict=False)
    },
    "two documents, padded injection": {
        "attention": "proxyformer",
        "num_documents": 2,
        "injection_length": "padded",
    },
    "relu kernel": {"attention": "performer", "performer_kernel": "relu"},
    "convolution": {"attention": "nystromformer", "conv_kernel_size": 35},
}


def register() -> None:
    """Register PyTorch's device for third-party backends, without an implementation."""
    backend_registration._setup_privateuseone_for_python_backend(DEVICE)
    # `torch.autocast(..., enabled=False)` calls it.
    getattr(torch, DEVICE).get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]


def moved(model: nn.Module) -> nn.Module:
    """Like `model.to(DEVICE)`: replace parameters and buffers, but no other tensor."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty_like(parameter, device=DEVICE))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device=DEVICE)
    return model


def train(model: nn.Module, *documents: int) -> None:
    """Forward and backward pass of a training step; every gradient must be on the device."""
    token_ids = torch.ones((BATCH, *documents, LENGTH), dtype=torch.uint8, device=DEVICE)
    trace = Trace()
    logits = model(token_ids, token_ids != 0, trace)
    loss = F.cross_entropy(logits, torch.zeros(BATCH, dtype=torch.int64, device=DEVICE))
    if trace.losses:
        loss = loss + torch.stack(trace.losses).mean()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.device.type == DEVICE, name


class Faulty(nn.Module):
    """A model that reads a value back, or else uses a tensor that is neither a parameter nor a buffer."""

    def __init__(self, reads_value: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(LENGTH, 3)
        self.reads_value = reads_value
        self.scale = torch.ones(3)

    def forward(self, token_ids: Tensor, mask: Tensor, trace: Trace) -> Tensor:
        logits: Tensor = self.linear(token_ids.float())
        return logits * logits.sum().item() if self.reads_value else logits * self.scale


def outcome(model: nn.Module, *documents: int) -> str:
    """The error of a training step, or "trained"."""
    try:
        train(moved(model).train(), *documents)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "trained"


def main() -> None:
    register()
    outcomes = {}
    for case, changes in CASES.items():
        config = ModelConfig(
            vocab_size=16, max_length=LENGTH, num_classes=3, num_proxies=10, num_landmarks=10, num_features=10,
            block_size=8, num_random_blocks=2, attention_dropout=0.1,
            num_layers=2 if changes.get("injection") == "carried" else 1, **changes,
        )  # fmt: skip
        with FakeTensorMode():
            outcomes[case] = outcome(Classifier(config), *([2] if config.num_documents == 2 else []))
    for case, reads_value in (("tensor on the CPU", False), ("value read back", True)):
        with FakeTensorMode():
            outcomes[case] = outcome(Faulty(reads_value))
    print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    main()
