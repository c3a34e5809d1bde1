"""The optimizer: parameter groups, step sizes, clipping, weight decay and the schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from proxytune.models.errors import ConfigError
from proxytune.models.optimizer import EagerAdamW, update_sizes
from proxytune.models.training import Trainer, TrainingConfig
from tests.models.test_training import MODEL, TRAINING, make_batch


def test_proxies_have_a_separate_parameter_group() -> None:
    config = replace(TRAINING, proxy_learning_rate_multiple=30.0, adam_eps=1e-5)
    trainer = Trainer(MODEL, config, seed=1)
    others, proxies = trainer.optimizer.param_groups
    assert [weight.shape for weight in proxies["params"]] == [(8, 16)] * 2
    assert len(others["params"]) == len(list(trainer.model.parameters())) - 2
    assert (others["eps"], proxies["eps"]) == (1e-5, 1e-10)
    for seed in range(8):
        assert proxies["lr"] == pytest.approx(30 * others["lr"])
        assert proxies["betas"] == others["betas"]
        trainer.train_step(make_batch(seed))
    assert len(Trainer(replace(MODEL, attention="softmax"), TRAINING).optimizer.param_groups) == 1


def test_eager_adamw_is_bitwise_equal_to_torch_adamw() -> None:
    """Also after each optimizer has loaded the other's state."""
    draws = torch.Generator().manual_seed(0)
    first = torch.randn(4, 3, generator=draws)
    weights = [first.clone().requires_grad_() for _ in range(2)]
    kinds = (torch.optim.AdamW, EagerAdamW)
    optimizers = [
        kind([weight], lr=0.1, weight_decay=0.1) for kind, weight in zip(kinds, weights, strict=True)
    ]
    for step in range(6):
        gradient = torch.randn(4, 3, generator=draws)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            optimizer.zero_grad()
            assert weight.grad is None
            weight.grad = gradient.clone()
            optimizer.step()
        assert not torch.equal(weights[0], first)
        torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
        if step == 2:  # each continues from the other's state
            states = [optimizer.state_dict() for optimizer in optimizers]
            for optimizer, state in zip(optimizers, reversed(states), strict=True):
                optimizer.load_state_dict(state)


def test_small_proxy_gradients_give_a_full_step() -> None:
    """With gradients far below the eps of the other weights, the step of the proxies is still the learning rate."""
    trainer = Trainer(MODEL, replace(TRAINING, learning_rate=1e-4), seed=1)
    _, proxies = trainer.optimizer.param_groups
    before = [weight.detach().clone() for weight in proxies["params"]]
    for weight in trainer.model.parameters():
        weight.grad = torch.full_like(weight, 1e-8)
    rate = proxies["lr"]
    trainer.optimizer.step()
    for old, new in zip(before, proxies["params"], strict=True):
        assert (old - new).abs().mean().item() == pytest.approx(rate, rel=0.05)


def test_update_sizes_agree_with_the_weight_change_of_a_step() -> None:
    """Without weight decay, a step changes each group by its learning rate times the update size."""
    trainer = Trainer(MODEL, replace(TRAINING, weight_decay=0.0), seed=1)
    assert update_sizes(trainer.optimizer) == {}
    for seed in range(5):
        before = [
            [weight.detach().clone() for weight in group["params"]]
            for group in trainer.optimizer.param_groups
        ]
        rates = [group["lr"] for group in trainer.optimizer.param_groups]
        betas = [group["betas"] for group in trainer.optimizer.param_groups]
        trainer.train_step(make_batch(seed))
        for group, used in zip(trainer.optimizer.param_groups, betas, strict=True):
            group["betas"] = used  # the schedule has already set the betas of the next step
        changes = [
            torch.cat([(old - new).flatten() for old, new in zip(olds, group["params"], strict=True)])
            for olds, group in zip(before, trainer.optimizer.param_groups, strict=True)
        ]
        sizes = update_sizes(trainer.optimizer)
        for name, rate, change in zip(("weight_update", "proxy_update"), rates, changes, strict=True):
            assert sizes[name] == pytest.approx(change.square().mean().sqrt().item() / rate, rel=2e-2)


def gradient_of_a_step(config: TrainingConfig) -> torch.Tensor:
    trainer = Trainer(replace(MODEL, dropout=0.0), config, seed=1)
    gradients: list[torch.Tensor] = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.append(
            torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])
        )
    )
    trainer.train_step(make_batch(0))
    return gradients[0]


def test_gradient_clipping_by_norm_and_by_value() -> None:
    unclipped = gradient_of_a_step(TRAINING)
    by_norm = gradient_of_a_step(replace(TRAINING, gradient_clip_norm=0.01))
    assert unclipped.norm() > 0.1
    assert torch.allclose(by_norm, unclipped * 0.01 / unclipped.norm(), rtol=1e-3, atol=1e-8)
    by_value = gradient_of_a_step(replace(TRAINING, gradient_clip_value=1e-3))
    assert torch.equal(by_value, unclipped.clamp(-1e-3, 1e-3))
    assert unclipped.abs().max() > 1e-3


def test_weight_decay_scales_weights() -> None:
    trainer = Trainer(MODEL, replace(TRAINING, weight_decay=0.1), seed=1)
    before = trainer.model.head[0].weight.detach().clone()
    for weight in trainer.model.parameters():
        weight.grad = torch.zeros_like(weight)
    rate = trainer.optimizer.param_groups[0]["lr"]
    trainer.optimizer.step()
    assert torch.allclose(trainer.model.head[0].weight, before * (1 - 0.1 * rate), rtol=1e-5)


def test_proxy_learning_rate_multiple_without_proxies_is_rejected() -> None:
    softmax = replace(MODEL, attention="softmax")
    with pytest.raises(
        ConfigError, match=r"proxy_learning_rate_multiple is 7\.0 with attention 'softmax': it has no proxies"
    ):
        Trainer(softmax, replace(TRAINING, proxy_learning_rate_multiple=7.0))


def test_schedule_is_linear_and_cycles_beta1() -> None:
    trainer = Trainer(MODEL, TRAINING, seed=1)
    rates, betas = [], []
    for seed in range(20):
        betas.append(trainer.optimizer.param_groups[0]["betas"][0])
        rates.append(trainer.train_step(make_batch(seed))["learning_rate"])
    assert rates[0] == pytest.approx(1e-2 / 25)
    assert rates[3] == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-2 / 25 / 1e4)
    assert (betas[0], betas[3], betas[-1]) == pytest.approx((0.95, 0.85, 0.95))
    falling = torch.tensor(rates[3:])
    assert torch.allclose(falling.diff(), falling.diff()[0].expand(16), rtol=1e-3)
    with pytest.raises(RuntimeError, match="20 steps are done"):
        trainer.train_step(make_batch(0))
