"""Every mechanism on a device that is not the CPU, without such a device: its tensors have shapes, and no bytes.

Operands of two devices are refused as CUDA refuses them, and a value that is read back to the CPU (`item`, `nonzero`), for
which a GPU would have to be waited for, is an error. Autocast has no such device: the tests marked `gpu` have it.

A program of its own, since a process has the device from its start and for all. It prints what became of each kind, as JSON.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration

from proxytune.models.attention import MECHANISMS, Trace
from proxytune.models.classifier import Classifier
from proxytune.models.config import CONTRASTS, INJECTIONS, ModelConfig

DEVICE = "elsewhere"
BATCH, LENGTH = 4, 72
KINDS: dict[str, dict[str, Any]] = {
    **{name: {"attention": name} for name in MECHANISMS},
    **{f"contrast {name}": {"attention": "proxyformer", "contrastive": name} for name in CONTRASTS},
    **{f"injection {name}": {"attention": "proxyformer", "injection": name} for name in INJECTIONS},
    "padded injection": {"attention": "proxyformer", "injection_length": "padded"},
    "relu kernel": {"attention": "performer", "performer_kernel": "relu"},
    "convolution": {"attention": "nystromformer", "conv_kernel_size": 35},
    "two documents": {"attention": "proxyformer", "num_documents": 2},
}


def register() -> None:
    """PyTorch's third-party device, implemented by nothing."""
    backend_registration._setup_privateuseone_for_python_backend(DEVICE)
    # What `torch.autocast(..., enabled=False)` asks of a device.
    getattr(torch, DEVICE).get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]


def moved(model: nn.Module) -> nn.Module:
    """What `model.to(DEVICE)` does: parameters and buffers, and no other tensor."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty_like(parameter, device=DEVICE))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device=DEVICE)
    return model


def train(model: nn.Module, *documents: int) -> None:
    """A training step but for the optimizer's; every gradient must lie on the device."""
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


class Careless(nn.Module):
    """A model with a tensor that is neither a parameter nor a buffer, or that looks at a value."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(LENGTH, 3)
        self.looks = looks
        self.scale = torch.ones(3)

    def forward(self, token_ids: Tensor, mask: Tensor, trace: Trace) -> Tensor:
        logits: Tensor = self.linear(token_ids.float())
        return logits * logits.sum().item() if self.looks else logits * self.scale


def outcome(model: nn.Module, *documents: int) -> str:
    """The name of the error of a training step, or "trained"."""
    try:
        train(moved(model).train(), *documents)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "trained"


def main() -> None:
    register()
    outcomes = {}
    for kind, changes in KINDS.items():
        config = ModelConfig(
            vocab_size=16, max_length=LENGTH, num_classes=3, num_proxies=10, num_landmarks=10, num_features=10,
            block_size=8, num_random_blocks=2, attention_dropout=0.1, **changes,
        )  # fmt: skip
        with FakeTensorMode():
            outcomes[kind] = outcome(Classifier(config), *([2] if config.num_documents == 2 else []))
    for kind, looks in (("a tensor left behind", False), ("a value looked at", True)):
        with FakeTensorMode():
            outcomes[kind] = outcome(Careless(looks))
    print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    main()
