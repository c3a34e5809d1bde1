"""Predicted memory and FLOPs against a real step, against arithmetic, and as a function of length."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from proxytune.models.attention import MECHANISMS, Trace
from proxytune.models.classifier import Classifier
from proxytune.models.config import ModelConfig
from proxytune.models.footprint import MIB, Footprint, footprint
from proxytune.models.training import Trainer, TrainingConfig

NAMES = sorted(MECHANISMS)
LINEAR = ["bigbird", "linformer", "nystromformer", "performer", "proxyformer"]
QUICK = {"proxyformer", "reformer", "softmax"}  # ours, the mechanism with a sort, and the baseline


def some_slow(names: list[str]) -> list[Any]:
    """The names as parameters, all but QUICK marked as slow."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def config(name: str, n: int, **changes: Any) -> ModelConfig:
    widths: dict[str, Any] = {"num_proxies": 64, "num_landmarks": 64, "num_features": 64}
    return ModelConfig(vocab_size=64, max_length=n, num_classes=2, attention=name, **(widths | changes))


@cache
def predicted(model_config: ModelConfig, batch_size: int, precision: str = "fp32") -> Footprint:
    """The footprint, computed once for all tests."""
    return footprint(model_config, batch_size, precision=precision)


def trained_once(
    model_config: ModelConfig, batch_size: int, device: str = "cpu", precision: str = "fp32"
) -> Any:
    training = TrainingConfig(
        steps=3, warmup_steps=0, batch_size=batch_size, learning_rate=1e-4, eval_every=1,
        micro_batch_size=batch_size, precision=precision,
    )  # fmt: skip
    trainer = Trainer(model_config, training, device=device)
    documents = [2] if model_config.num_documents == 2 else []
    token_ids = torch.ones(batch_size, *documents, model_config.max_length, dtype=torch.uint8)
    labels = torch.zeros(batch_size, dtype=torch.int64)
    batch = SimpleNamespace(
        token_ids=token_ids.to(device), mask=token_ids.to(device) != 0, labels=labels.to(device)
    )
    trainer.train_step(batch)
    return trainer, batch


def allocated_at_peak(model_config: ModelConfig, batch_size: int, precision: str = "fp32") -> int:
    """Peak bytes of PyTorch's CPU allocator during a second real step, plus the model's and the optimizer's state."""
    trainer, batch = trained_once(model_config, batch_size, precision=precision)
    with profile(profile_memory=True, acc_events=True) as profiler:
        trainer.train_step(batch)
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    state = [tensor for values in trainer.optimizer.state.values() for tensor in values.values()]
    return peak + sum(tensor.nbytes for tensor in [*trainer.model.state_dict().values(), *state])


@pytest.mark.parametrize("name", some_slow(NAMES))
def test_predicted_memory_is_within_10_percent_of_a_real_step(name: str) -> None:
    real, prediction = allocated_at_peak(config(name, 512), 2), predicted(config(name, 512), 2).training_bytes
    print(f"{name}: predicted {prediction / MIB:.2f} MiB, allocated {real / MIB:.2f}")
    assert prediction == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_documents": 2},
        *(
            pytest.param(changes, marks=pytest.mark.slow)
            for changes in (
                {"dropout": 0.0},
                {"injection": "cross-attention", "decomposed_dropout": "element"},
                {"pseudo_inverse": True, "conv_kernel_size": 35, "injection": "carried"},
                {"num_layers": 4, "embedding_dim": 128, "feedforward_dim": 64, "num_heads": 8},
            )
        ),
    ],
)
def test_predicted_memory_with_non_default_options(changes: dict[str, Any]) -> None:
    model_config = config("proxyformer", 512, **changes)
    prediction = predicted(model_config, 2).training_bytes
    assert prediction == pytest.approx(allocated_at_peak(model_config, 2), rel=0.1)


def test_predicted_memory_in_bf16() -> None:
    model_config = config("proxyformer", 512)
    prediction = predicted(model_config, 2, "bf16").training_bytes
    assert prediction == pytest.approx(allocated_at_peak(model_config, 2, precision="bf16"), rel=0.1)
    assert prediction < predicted(model_config, 2).training_bytes


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_predicted_memory_is_within_10_percent_of_a_cuda_step(name: str) -> None:
    model_config = config(name, 2048)
    trainer, batch = trained_once(model_config, 16, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    trainer.train_step(batch)
    real = torch.cuda.max_memory_allocated()
    assert footprint(model_config, 16, device="cuda").training_bytes == pytest.approx(real, rel=0.1)


def test_footprint_parts_are_consistent() -> None:
    costs = predicted(config("proxyformer", 512), 2)
    assert costs.parameter_bytes == 4 * costs.parameters
    assert costs.optimizer_bytes == pytest.approx(8 * costs.parameters, rel=0.01)
    assert 0 <= costs.gradient_bytes <= costs.parameter_bytes
    assert costs.activation_bytes > 0
    assert costs.parameter_bytes < costs.inference_bytes < costs.training_bytes


def test_flops_agree_with_the_matrix_products() -> None:
    n, m, d, ff = 512, 64, 64, 128
    costs = footprint(config("proxyformer", n, contrastive="none", injection="none"), 1)
    per_layer = 4 * n * d * d + 2 * m * d * d + 2 * n * d * ff + 4 * n * m * d
    head = d * ff + ff * 2
    assert costs.inference_flops_per_sequence == 2 * (2 * per_layer + head)
    assert 2.8 < costs.training_flops_per_sequence / costs.inference_flops_per_sequence < 3.4
    softmax = footprint(config("softmax-explicit", n), 1)
    assert softmax.inference_flops_per_sequence == 2 * (
        2 * (4 * n * d * d + 2 * n * d * ff + 2 * n * n * d) + head
    )


@pytest.mark.parametrize("name", NAMES)
def test_inference_flops_agree_with_pytorchs_counter(name: str) -> None:
    """The counter knows no fused attention of a CPU, so the real pass uses PyTorch's explicit one."""
    model_config = config(name, 128)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model = Classifier(model_config).eval()
        token_ids = torch.ones(2, 128, dtype=torch.uint8)
        model(token_ids, token_ids != 0, Trace())
    assert footprint(model_config, 2).inference_flops_per_sequence * 2 == counter.get_total_flops()


def growth(name: str) -> tuple[float, float]:
    """Ratios of the cost per additional token, from 4096 to 16384 tokens against from 1024 to 4096: bytes and FLOPs."""
    costs = [footprint(config(name, n, num_layers=1), 1) for n in (1024, 4096, 16384)]

    def ratio(values: list[int]) -> float:
        return (values[2] - values[1]) / (16384 - 4096) / ((values[1] - values[0]) / (4096 - 1024))

    return (
        ratio([cost.activation_bytes for cost in costs]),
        ratio([cost.training_flops_per_sequence for cost in costs]),
    )


@pytest.mark.parametrize("name", some_slow(LINEAR))
def test_cost_of_linear_mechanisms_grows_linearly(name: str) -> None:
    """The cost per token does not depend on the length."""
    assert growth(name) == pytest.approx((1, 1), rel=0.05)


def test_cost_of_reformer_grows_almost_linearly() -> None:
    """The number of hash buckets grows with n."""
    assert max(growth("reformer")) < 1.5


def test_cost_of_explicit_softmax_grows_quadratically() -> None:
    """The ratio of a quadratic cost is 4, above the limits of the tests for the other mechanisms."""
    assert min(growth("softmax-explicit")) > 3


def test_proxyformer_at_4096_stays_within_the_documented_memory() -> None:
    task: dict[str, Any] = {"vocab_size": 512, "max_length": 4096, "num_classes": 2}
    ours = footprint(ModelConfig(**task), 32).training_bytes
    assert ours <= 0.04 * footprint(ModelConfig(attention="softmax-explicit", **task), 32).training_bytes
    fused = ModelConfig(attention="softmax", attention_dropout=0.0, **task)
    assert ours <= 1.05 * footprint(fused, 32).training_bytes


def test_fused_softmax_with_dropout_is_quadratic_on_cpu_only() -> None:
    model_config = config("softmax", 2048)
    assert (
        footprint(model_config, 1).training_bytes
        > 5 * footprint(model_config, 1, device="cuda").training_bytes
    )


def test_element_dropout_holds_explicit_matrices_on_cpu_only() -> None:
    model_config, without = (
        config("proxyformer", 2048, decomposed_dropout="element", attention_dropout=rate)
        for rate in (0.1, 0.0)
    )
    on_cpu, on_gpu = (footprint(model_config, 1, device=device).training_bytes for device in ("cpu", "cuda"))
    assert on_cpu > on_gpu == footprint(without, 1, device="cuda").training_bytes
