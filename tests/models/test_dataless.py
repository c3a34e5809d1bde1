"""Tensors without data against the usual tensors."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxytune.models.dataless import Dataless


def layout(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad


def train() -> list[Tensor]:
    """Outputs and gradients of a small model with views, in-place operations, autocast and fused attention."""
    layer = nn.Linear(8, 8)
    x = torch.randn(2, 4, 6, 8)
    x.transpose(1, 2)[:, 0].mul_(2).add_(torch.ones(8))
    with torch.autocast("cpu", torch.bfloat16):
        q = layer(x)
        attended = F.scaled_dot_product_attention(q, q, q, attn_mask=torch.zeros(2, 1, 1, 6))
    loss = attended.float().logsumexp(-1).masked_fill(x[..., 0] > 1, 0.5).mean()
    loss.backward()
    assert layer.weight.grad is not None
    return [x, q, attended, loss, layer.weight, layer.weight.grad]


def test_operations_give_the_same_layouts_as_usual_tensors() -> None:
    with Dataless():
        without_data = train()
    assert [layout(tensor) for tensor in without_data] == [layout(tensor) for tensor in train()]


def test_usual_tensors_are_accepted() -> None:
    weight = torch.ones(3, 3)
    with Dataless():
        product = torch.zeros(2, 3) @ weight
    assert layout(product) == layout(torch.zeros(2, 3) @ weight)
    assert torch.equal(weight, torch.ones(3, 3))


@pytest.mark.parametrize("read", [Tensor.item, Tensor.nonzero])
def test_operations_that_need_data_are_errors(read: Any) -> None:
    with Dataless():
        x = torch.zeros(1)
        with pytest.raises(RuntimeError, match=r"[Mm]eta"):
            read(x)


def test_values_cannot_be_used_outside_of_the_context() -> None:
    with Dataless():
        x = torch.zeros(3)
    with pytest.raises(RuntimeError, match="outside of a Dataless context"):
        x + 1


NESTED = """
import sys
import torch
from proxytune.models.dataless import Dataless

with Dataless():
    try:
        with Dataless():
            raise ValueError
    except ValueError:
        pass
    torch.zeros(3).sin().softmax(0)
assert "torch._dynamo" not in sys.modules
with Dataless():
    torch.zeros(3).sin()
    assert torch._dynamo.config.cache_size_limit > 0
    assert "torch._dynamo" in sys.modules
"""


def test_nested_contexts_and_errors_import_no_compiler_until_it_is_used() -> None:
    subprocess.run([sys.executable, "-P", "-c", NESTED], check=True, timeout=300)


COMPILER = """
import torch
from proxytune.models.dataless import Dataless

with Dataless():
    torch.zeros(3).sin().softmax(0)
compiled = torch.compile(lambda x: x.sin().softmax(0), backend="aot_eager")
x = torch.randn(3)
assert torch.equal(compiled(x), x.sin().softmax(0))
"""


@pytest.mark.slow
def test_compiler_works_afterwards() -> None:
    subprocess.run([sys.executable, "-P", "-c", COMPILER], check=True, timeout=300)
