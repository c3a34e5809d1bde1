"""The diagnostics of low-rank mechanisms against explicitly computed attention maps."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from proxytune.models import diagnostics
from proxytune.models.attention import MECHANISMS, Trace
from proxytune.models.classifier import Classifier
from proxytune.models.classifier_diagnostics import MAX_EXAMPLES, FewExamples, diagnose
from proxytune.models.config import ModelConfig
from proxytune.models.training import Trainer, TrainingConfig

N, M, D, E = 24, 6, 16, 8
CONFIG = ModelConfig(
    vocab_size=16, max_length=N, num_classes=3, num_proxies=M, num_landmarks=M, num_features=M,
    embedding_dim=D, feedforward_dim=24, num_layers=2,
)  # fmt: skip
TRAINING = TrainingConfig(steps=20, warmup_steps=4, batch_size=8, learning_rate=1e-2, eval_every=5)
LOW_RANK = ["linformer", "nystromformer", "performer", "proxyformer"]


def build(name: str, **changes: Any) -> tuple[Any, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = MECHANISMS[name](replace(CONFIG, attention=name, **changes), 0).eval()
        with torch.no_grad():
            for parameter in attention.parameters():
                parameter.mul_(2)
        x = torch.randn(2, N, D)
    return attention, x, torch.arange(N) < torch.tensor([[N], [10]])


def diagnostics_of(name: str, **changes: Any) -> dict[str, float]:
    attention, x, mask = build(name, **changes)
    trace = Trace(diagnose=True)
    attention(x, mask, trace)
    return {key: value.item() for key, value in trace.diagnostics[0].items()}


def explicit_map(name: str, attention: Any, x: Tensor, b: int, head: int, valid: int) -> tuple[Tensor, ...]:
    """Q, K, the attention map, and the query and key landmarks of one head over the valid tokens of sequence b."""
    part = slice(head * E, head * E + E)
    q, k = (project(x[b, :valid])[:, part] for project in (attention.query, attention.key))
    no_landmarks = torch.zeros(0, E)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.softmax(a @ b.T / math.sqrt(E), dim=-1)

    if name == "proxyformer":
        proxies = attention.proxy_norm(attention.proxies)
        q_p, k_p = attention.query(proxies)[:, part], attention.key(proxies)[:, part]
        return q, k, kernel(q, k_p) @ kernel(q_p, k), q_p, k_p
    if name == "nystromformer":
        size = N // M
        q_l, k_l = (
            torch.stack([t[i : i + size].sum(dim=0) / size for i in range(0, N, size)]) for t in (q, k)
        )
        inverse = attention_pinv(kernel(q_l, k_l))
        return q, k, kernel(q, k_l) @ inverse @ kernel(q_l, k), q_l, k_l
    if name == "linformer":
        projection = attention.projection[head, :, :valid]
        return q, k, kernel(q, projection @ k) @ projection, no_landmarks, projection @ k
    phi_q, phi_k = (torch.relu(t * E**-0.5 @ attention.features.T) + 1e-3 for t in (q, k))
    weights = phi_q @ phi_k.T
    padding = (N - valid) * 1e-3 * phi_q.sum(dim=-1, keepdim=True)  # keys of 0, whose features are 0.001
    return q, k, weights / (weights.sum(dim=-1, keepdim=True) + padding), no_landmarks, no_landmarks


def attention_pinv(matrix: Tensor) -> Tensor:
    """Six iterations of Nyströmformer's eq. 13, starting from A^T / (|A|_1 |A|_inf)."""
    z = matrix.T / (matrix.sum(dim=0).max() * matrix.sum(dim=1).max())
    eye = torch.eye(len(matrix))
    for _ in range(6):
        az = matrix @ z
        z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
    return z


@pytest.mark.parametrize("name", LOW_RANK)
def test_diagnostics_agree_with_explicit_attention_maps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "COLUMNS", 7)  # several blocks, the last one smaller
    changes = {"performer_kernel": "relu"} if name == "performer" else {"injection": "none"}
    attention, x, mask = build(name, **changes)
    errors, uniform, cosines, diagonals = [], [], [], []
    for b, head in ((b, head) for b in range(2) for head in range(2)):
        valid = int(mask[b].sum())
        q, k, ours, q_l, k_l = explicit_map(name, attention, x, b, head, valid)
        exact = torch.softmax(q @ k.T / math.sqrt(E), dim=-1)
        errors.append(((ours - exact).norm() / exact.norm()).item())
        uniform.append(((torch.full_like(exact, 1 / valid) - exact).norm() / exact.norm()).item())
        for rows in (q_l, k_l):
            pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
            cosines += [abs(F.cosine_similarity(rows[i], rows[j], dim=0).item()) for i, j in pairs]
        if len(q_l):
            middle = torch.softmax(q_l @ k_l.T / math.sqrt(E), dim=-1)
            diagonals.append(middle.diagonal().mean().item())
    actual = diagnostics_of(name, **changes)
    assert actual["map_error"] == pytest.approx(sum(errors) / 4, rel=1e-4)
    assert actual["map_error_uniform"] == pytest.approx(sum(uniform) / 4, rel=1e-4)
    for key, values in (("landmark_cosine", cosines), ("middle_diagonal", diagonals)):
        assert (key in actual) == bool(values)
        if values:
            assert actual[key] == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_map_error_is_small_with_every_token_as_landmark() -> None:
    assert diagnostics_of("nystromformer", num_landmarks=N)["map_error"] < 0.1
    assert diagnostics_of("nystromformer", num_landmarks=1)["map_error"] > 0.5


def test_convolution_is_excluded_from_the_map() -> None:
    attention, x, mask = build("nystromformer", conv_kernel_size=3)
    with_convolution = attention.diagnose(*(attention.split_heads(x) for _ in range(2)), mask)
    attention.conv = None
    assert with_convolution == attention.diagnose(*(attention.split_heads(x) for _ in range(2)), mask)


def batch(size: int, seed: int = 0, length: int = N) -> Any:
    ids = torch.randint(1, 16, (size, length), generator=torch.Generator().manual_seed(seed))
    return SimpleNamespace(token_ids=ids, mask=ids != 0, labels=ids[:, 0] % 3)


@pytest.mark.parametrize("name", sorted(MECHANISMS))
def test_evaluate_reports_map_error_for_low_rank_mechanisms_only(name: str) -> None:
    metrics = Trainer(replace(CONFIG, attention=name), TRAINING).evaluate([batch(5)])
    assert ("map_error" in metrics) == (name in LOW_RANK)
    if name in LOW_RANK:
        layers = [metrics[f"map_error_layer{layer}"] for layer in (1, 2)]
        assert metrics["map_error"] == pytest.approx(sum(layers) / 2)
        assert all(math.isfinite(value) for value in metrics.values())


def test_diagnosed_examples_are_spread_over_the_stream() -> None:
    few = FewExamples()
    for seed in range(50):
        few.offer(batch(3, seed))
    kept = few.examples(torch.device("cpu"))
    expected = [batch(3, seed).token_ids[1] for seed in range(0, 50, 8)]
    assert len(kept) == len(expected) <= MAX_EXAMPLES
    assert all(torch.equal(ids[0], row) for (ids, _, _), row in zip(kept, expected, strict=True))


def test_proxy_moved_starts_at_zero_and_is_restored() -> None:
    trainer = Trainer(CONFIG, TRAINING, seed=1)
    name = "encoder.blocks.1.attention.proxies"
    first = trainer.model.state_dict()[name].clone()
    assert trainer.evaluate([batch(4)])["proxy_moved"] == 0
    for seed in range(3):
        trainer.train_step(batch(8, seed))
    moved = trainer.evaluate([batch(4)])["proxy_moved_layer2"]
    now = trainer.model.state_dict()[name]
    assert moved == pytest.approx(((now - first).norm() / first.norm()).item(), rel=1e-5)
    other = Trainer(CONFIG, TRAINING, seed=2)
    other.load_state_dict(trainer.state_dict())
    assert other.evaluate([batch(4)])["proxy_moved_layer2"] == moved


@pytest.mark.parametrize("contrastive", ["self", "kernel"])
def test_gradient_ratio_agrees_with_two_backward_passes(contrastive: str) -> None:
    config = replace(CONFIG, contrastive=contrastive, contrastive_weight=0.3, dropout=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(config)
    example = batch(1)
    norms = []
    for weigh in (lambda loss, trace: 0.3 * sum(trace.losses) / 2, lambda loss, trace: loss):
        model.zero_grad()
        trace = Trace()
        loss = F.cross_entropy(model.train()(example.token_ids, example.mask, trace), example.labels)
        weigh(loss, trace).backward()
        norms.append([block.attention.proxies.grad.norm().item() for block in model.encoder.blocks])
    few = [(example.token_ids, example.mask, example.labels)]
    first = {name: weight for name, weight in model.state_dict().items() if name.endswith("proxies")}
    actual = diagnose(model.eval(), few, first)
    for layer in range(2):
        expected = norms[0][layer] / norms[1][layer]
        assert actual[f"contrastive_gradient_ratio_layer{layer + 1}"] == pytest.approx(expected, rel=1e-4)
    assert all(parameter.grad is not None for parameter in model.parameters())  # diagnose keeps gradients
