"""Proxyformer against a reference with explicit matrices, and properties of its formulation."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from proxytune.models.attention import Trace
from proxytune.models.attention.pinv import iterative_pinv
from proxytune.models.attention.proxyformer import Proxyformer
from proxytune.models.attention.segments import padded_segment_means, valid_segment_means
from proxytune.models.classifier import Classifier
from proxytune.models.config import CONTRASTS, DROPOUTS, INJECTION_LENGTHS, INJECTIONS, ModelConfig
from proxytune.models.dropout import scaled_keep
from proxytune.models.errors import ConfigError

N, M, D = 40, 12, 16
CONFIG = ModelConfig(
    vocab_size=16, max_length=N, num_classes=3, num_proxies=M, embedding_dim=D, dropout=0.0, num_heads=2
)


def build(config: ModelConfig, layer: int = 0, seed: int = 0) -> Proxyformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        attention = Proxyformer(config, layer)
        with torch.no_grad():
            for parameter in attention.parameters():
                parameter.mul_(2)
        return attention.eval()


def inputs(batch: int = 3, n: int = N, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, n, D, generator=generator)
    mask = torch.rand(batch, n, generator=generator) < 0.8
    return x, mask


def slow_segment_means(x: Tensor, mask: Tensor, num_segments: int, max_length: int) -> Tensor:
    """By definition: the mean of the valid tokens whose floor(i m / n) is the segment."""
    means = torch.zeros(len(x), num_segments, x.shape[-1])
    for b, s in itertools.product(range(len(x)), range(num_segments)):
        members = [i for i in range(x.shape[1]) if i * num_segments // max_length == s and mask[b, i]]
        if members:
            means[b, s] = x[b, members].mean(dim=0)
    return means


def slow_valid_segment_means(x: Tensor, mask: Tensor, num_segments: int) -> Tensor:
    """By definition: the r-th of L valid tokens is in segment floor(r m / L)."""
    means = torch.zeros(len(x), num_segments, x.shape[-1])
    for b in range(len(x)):
        valid = [i for i in range(x.shape[1]) if mask[b, i]]
        for s in range(num_segments):
            members = [i for rank, i in enumerate(valid) if rank * num_segments // len(valid) == s]
            if members:
                means[b, s] = x[b, members].mean(dim=0)
    return means


def reference(
    attention: Proxyformer, x: Tensor, mask: Tensor, injection_length: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, K1 and K2 for injection 'segment', computed per head as in the docstring of Proxyformer."""
    means = (
        slow_valid_segment_means(x, mask, M)
        if injection_length == "valid"
        else slow_segment_means(x, mask, M, N)
    )
    proxies = torch.nn.functional.layer_norm(
        attention.proxies + means @ attention.inject.weight.T,
        (D,),
        attention.proxy_norm.weight,
        attention.proxy_norm.bias,
    )
    q, k, v = attention.query(x), attention.key(x), attention.value(x)
    q_p, k_p = attention.query(proxies), attention.key(proxies)
    e = D // 2
    heads, first, second = [], [], []
    for head in range(2):
        part = slice(head * e, (head + 1) * e)
        k1 = torch.softmax(q[..., part] @ k_p[..., part].mT / math.sqrt(e), dim=-1)
        logits = q_p[..., part] @ k[..., part].mT / math.sqrt(e)
        k2 = torch.softmax(logits.masked_fill(~mask[:, None, :], -1e9), dim=-1)
        heads.append(k1 @ (k2 @ v[..., part]))
        first.append(k1)
        second.append(k2)
    return attention.output(torch.cat(heads, dim=-1)), torch.stack(first), torch.stack(second)


@pytest.mark.parametrize("injection_length", INJECTION_LENGTHS)
def test_fused_attention_agrees_with_the_explicit_reference(injection_length: str) -> None:
    attention = build(replace(CONFIG, injection_length=injection_length))
    x, mask = inputs()
    x.requires_grad_()
    expected, k1, k2 = reference(attention, x, mask, injection_length)
    actual = attention(x, mask, Trace())
    error = (actual - expected).abs()
    print(f"fused against explicit: max error {error.max():.1e}, mean {error.mean():.1e}")
    assert error.max() < 1e-5
    assert error.mean() < 1e-6
    weight = torch.randn(actual.shape, generator=torch.Generator().manual_seed(2))
    gradients = [torch.autograd.grad((y * weight).sum(), x, retain_graph=True)[0] for y in (actual, expected)]
    assert (gradients[0] - gradients[1]).abs().max() < 1e-4
    # Both factors and their product are row-stochastic.
    for matrix in (k1, k2, k1 @ k2):
        assert torch.allclose(matrix.sum(dim=-1), torch.ones(()), atol=1e-5)
        assert (matrix >= 0).all()


def test_column_dropout_of_k2_is_row_dropout_of_v() -> None:
    """The test draws the dropout mask of the training pass again from the same random state."""
    config = replace(CONFIG, attention_dropout=0.5, injection="none")
    attention = build(config).train()
    x, mask = inputs()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        actual = attention(x, mask, Trace())
        torch.manual_seed(7)
        keep = scaled_keep((3, 2, N, 1), 0.5, like=x)
    proxies = attention.proxy_norm(attention.proxies)
    heads = []
    for head in range(2):
        part = slice(head * D // 2, (head + 1) * D // 2)
        q, k, v = (project(x)[..., part] for project in (attention.query, attention.key, attention.value))
        q_p, k_p = (project(proxies)[..., part] for project in (attention.query, attention.key))
        k1 = torch.softmax(q @ k_p.mT / math.sqrt(D // 2), dim=-1)
        k2 = torch.softmax((q_p @ k.mT / math.sqrt(D // 2)).masked_fill(~mask[:, None, :], -1e9), dim=-1)
        dropped = k2 * keep[:, head].mT
        assert (dropped == 0).all(dim=1).any()
        heads.append(k1 @ (dropped @ v))
    assert torch.allclose(actual, attention.output(torch.cat(heads, dim=-1)), atol=1e-5)


@pytest.mark.parametrize("kind", DROPOUTS)
def test_dropout_is_unbiased_and_off_in_evaluation(kind: str) -> None:
    attention = build(replace(CONFIG, decomposed_dropout=kind, attention_dropout=0.2))
    x, mask = inputs(batch=1)
    exact = attention(x, mask, Trace())
    assert torch.equal(exact, build(CONFIG)(x, mask, Trace()))
    attention.train()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        samples = attention(x.expand(2000, -1, -1), mask.expand(2000, -1), Trace())
    if kind == "none":
        assert torch.allclose(samples[0], exact[0], atol=1e-5)
        return
    assert samples.std(dim=0).mean() > 0.01
    if kind != "key":  # biased, since it renormalizes
        standard_errors = (samples.mean(dim=0) - exact[0]) / (samples.std(dim=0) / math.sqrt(2000))
        assert standard_errors.abs().max() < 5


@pytest.mark.parametrize("injection", INJECTIONS)
def test_only_segment_injection_depends_on_token_order(injection: str) -> None:
    """Positions are part of x. Apart from them, only the segments depend on the order of tokens."""
    attention = build(replace(CONFIG, injection=injection), layer=1)
    x, mask = inputs()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))

    def run(x: Tensor, mask: Tensor) -> Tensor:
        return attention(x, mask, Trace(carried=torch.ones(3, M, D)))

    equivariant = torch.allclose(run(x, mask)[:, order], run(x[:, order], mask[:, order]), atol=1e-5)
    assert equivariant == (injection != "segment")


@pytest.mark.parametrize(
    ("m", "n", "length"), [(4, 16, 16), (4, 16, 9), (5, 17, 17), (5, 17, 11), (7, 8, 8), (1, 9, 9)]
)
def test_padded_segment_means_agree_with_the_definition(m: int, n: int, length: int) -> None:
    x, mask = torch.randn(2, length, 3), torch.rand(2, length) < 0.5
    assert torch.allclose(padded_segment_means(x, mask, m, n), slow_segment_means(x, mask, m, n), atol=1e-6)
    checked = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: padded_segment_means(x, mask, m, n), checked)


@pytest.mark.parametrize(("m", "length"), [(4, 16), (5, 17), (7, 3), (1, 9), (12, 40)])
def test_valid_segment_means_agree_with_the_definition(m: int, length: int) -> None:
    x, mask = torch.randn(3, length, 3), torch.rand(3, length) < 0.5
    mask[2] = False  # a document without valid tokens
    assert torch.allclose(valid_segment_means(x, mask, m), slow_valid_segment_means(x, mask, m), atol=1e-6)
    checked = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: valid_segment_means(x, mask, m), checked)


def test_short_sequence_fills_every_segment_with_valid_length_only() -> None:
    x, mask = inputs(batch=1)
    mask[:] = torch.arange(N) < M
    assert valid_segment_means(x, mask, M).abs().amax(dim=-1).count_nonzero() == M
    assert padded_segment_means(x, mask, M, N).abs().amax(dim=-1).count_nonzero() < M / 2


def test_initial_proxies_scale_with_proxy_init_std() -> None:
    def initial_proxies(std: float) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Proxyformer(replace(CONFIG, proxy_init_std=std), 0).proxies

    assert torch.allclose(initial_proxies(0.05), 0.05 * initial_proxies(1.0))
    assert initial_proxies(1.0).std().item() == pytest.approx(1.0, abs=0.15)


def test_all_tokens_as_proxies_with_pseudo_inverse_is_softmax() -> None:
    """S S^+ S = S: Nyström attention with every token as a landmark is exact."""
    config = replace(CONFIG, num_proxies=N, injection="none", pseudo_inverse=True, contrastive="none")
    attention = build(config).double()
    x, mask = inputs(batch=1)
    attention.proxies.data, mask = x[0].double(), torch.ones(1, N, dtype=torch.bool)
    x = attention.proxy_norm(x.double()).detach()  # tokens and normalized proxies are the same vectors
    q, k, v = (
        attention.split_heads(project(x)) for project in (attention.query, attention.key, attention.value)
    )
    exact = torch.softmax(q @ k.mT / math.sqrt(D // 2), dim=-1) @ v
    expected = attention.output(exact.transpose(1, 2).flatten(2))
    error = (attention(x, mask, Trace()) - expected).abs().max()
    assert error < 0.1 * expected.std()  # six iterations


def test_iterative_pseudo_inverse_converges() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.softmax(2 * torch.randn(3, 16, 16, generator=generator, dtype=torch.float64), dim=-1)
    exact = torch.linalg.pinv(matrix)
    errors = [
        ((iterative_pinv(matrix, steps) - exact).norm() / exact.norm()).item() for steps in (2, 4, 6, 8, 20)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6


# pseudo_inverse, conv_kernel_size, own_proxy_projections
OPTIONS = list(itertools.product((False, True), (0, 3), (False, True)))


@pytest.mark.parametrize(
    "options", [[OPTIONS[0], OPTIONS[-1]], pytest.param(OPTIONS[1:-1], marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("dropout", DROPOUTS)
def test_every_option_combination_trains_or_is_rejected(
    injection: str, dropout: str, options: list[tuple[bool, int, bool]]
) -> None:
    token_ids = torch.randint(1, 16, (2, N), generator=torch.Generator().manual_seed(0))
    for contrastive, shared, (pinv, conv, own) in itertools.product(CONTRASTS, (False, True), options):
        changes: dict[str, Any] = {
            "injection": injection,
            "decomposed_dropout": dropout,
            "contrastive": contrastive,
            "pseudo_inverse": pinv,
            "conv_kernel_size": conv,
            "shared_proxies": shared,
            "own_proxy_projections": own,
            "dropout": 0.1,
        }
        if contrastive == "two-views" and injection == "none":
            with pytest.raises(ConfigError, match="both views are the same"):
                replace(CONFIG, **changes)
            continue
        model = Classifier(replace(CONFIG, **changes))
        trace = Trace()
        logits = model(token_ids, token_ids != 0, trace)
        assert len(trace.losses) == (0 if contrastive == "none" else 2)
        (logits.sum() + sum(trace.losses)).backward()
        assert all(parameter.grad is not None for parameter in model.parameters()), changes
        assert ("encoder.blocks.1.attention.proxies" in model.state_dict()) == (not shared)


def test_extra_parameters_over_softmax_are_the_proxies() -> None:
    task: dict[str, Any] = {"vocab_size": 32, "max_length": 2048, "num_classes": 10}
    ours, softmax = (
        sum(parameter.numel() for parameter in Classifier(ModelConfig(attention=name, **task)).parameters())
        for name in ("proxyformer", "softmax")
    )
    assert softmax == 209_802  # the public ListOps model
    assert ours - softmax == 2 * (128 * 64 + 64 * 64 + 128)
