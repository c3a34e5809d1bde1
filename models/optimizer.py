"""AdamW with OneCycleLR, as in the LRA protocol, with the proxies in a separate parameter group.

The learning rate rises linearly from learning_rate / 25 to learning_rate during the warm-up, then falls linearly to nearly
zero at `steps`. As in the protocol the momentum is cycled as well (PyTorch's default): Adam's beta1 falls from 0.95 to
0.85 during the warm-up and rises back afterwards.

A step changes a weight by about learning_rate x g / (|g| + eps), g its gradient. The protocol's eps of 1e-6 exceeds the
gradient of many proxies (2e-7 on ListOps at the start) and would shrink their steps, so proxies use PROXY_EPS.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from proxytune.models.classifier import Classifier
from proxytune.models.training_config import TrainingConfig

PROXY_EPS = 1e-10


def named_proxies(model: Classifier) -> dict[str, Tensor]:
    """The trainable proxies of each layer that has its own, by parameter name."""
    return {name: weight for name, weight in model.named_parameters() if name.endswith(".attention.proxies")}


def make_optimizer(model: Classifier, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with the proxies, if any, as the second group; make_schedule sets learning rates and beta1."""
    proxies = named_proxies(model)
    others = [weight for name, weight in model.named_parameters() if name not in proxies]
    groups = [{"params": others, "lr": config.learning_rate, "eps": config.adam_eps}]
    if proxies:
        rate = config.learning_rate * config.proxy_learning_rate_multiple
        groups.append({"params": list(proxies.values()), "lr": rate, "eps": PROXY_EPS})
    # fused: one kernel for all tensors; on a CPU an eighth of the time of a loop, with equal results up to rounding.
    return EagerAdamW(groups, weight_decay=config.weight_decay, fused=True)


class EagerAdamW(torch.optim.AdamW):
    """torch.optim.AdamW without its guards for torch.compile, which is used here for models only.

    Each guard imports torch._dynamo, which takes 2 s of CPU before the first step of a process. PyTorch has no setting
    that disables it.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


@torch.no_grad()
def update_sizes(optimizer: torch.optim.AdamW) -> dict[str, float]:
    """Size of Adam's last update for each group, in units of the group's learning rate.

    weight_update for all weights but the proxies, proxy_update for the proxies: root mean square of m / (sqrt(v) + eps)
    with the bias-corrected moments m and v, without weight decay. About 1 if gradients keep their sign, 0.1 to 0.3 if they
    are noise, near 0 if eps is far above them. {} before the first step.
    """
    sizes = {}
    for name, group in zip(("weight_update", "proxy_update"), optimizer.param_groups, strict=False):
        beta1, beta2 = group["betas"]
        states = [optimizer.state[weight] for weight in group["params"] if weight in optimizer.state]
        updates = [
            (state["exp_avg"] / (1 - beta1 ** state["step"]))
            / ((state["exp_avg_sq"] / (1 - beta2 ** state["step"])).sqrt() + group["eps"])
            for state in states
        ]
        if updates:
            sizes[name] = torch.cat([update.flatten() for update in updates]).square().mean().sqrt().item()
    return sizes


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig
) -> torch.optim.lr_scheduler.OneCycleLR:
    """The schedule described above, with each group's own peak."""
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=config.steps,
        pct_start=config.warmup_steps / config.steps,
        anneal_strategy="linear",
    )
