"""Diagnostics of a classifier on a few examples.

The diagnostics of its layers (diagnostics.py), and for proxies:

    proxy_moved                   |P - P_0| / |P_0|, P_0 the initial proxies; Frobenius norms
    contrastive_gradient_ratio    |d(weight x contrastive loss) / dP| / |d(cross-entropy) / dP|, without dropout
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from proxytune.models.attention import MECHANISMS, Trace
from proxytune.models.classifier import Classifier
from proxytune.models.optimizer import named_proxies
from proxytune.models.passes import Batch, example_lengths

MAX_EXAMPLES = 8
# Elements of all maps computed per head: 8 sequences of 512 tokens, 2 of 1,024, 1 of longer ones. A sequence of 1,024
# tokens takes 0.17 s, the evaluation of 2,000 such sequences 20 s.
MAX_MAP_ELEMENTS = 2**21

Example = tuple[Tensor, Tensor, Tensor]  # token ids, mask and label of a batch of one


class FewExamples:
    """Keeps up to MAX_EXAMPLES examples of a stream of batches, evenly spaced: the middle one of every 2^k-th batch."""

    def __init__(self) -> None:
        self._kept: list[Example] = []
        self._stride = 1
        self._seen = 0

    def offer(self, batch: Batch) -> None:
        """Add the next batch of the stream."""
        if self._seen % self._stride == 0 and len(batch.labels):
            row = slice(len(batch.labels) // 2, len(batch.labels) // 2 + 1)
            length = example_lengths(batch.mask[row])[0]
            self._kept.append(
                (batch.token_ids[row, ..., :length], batch.mask[row, ..., :length], batch.labels[row])
            )
            if len(self._kept) > MAX_EXAMPLES:
                self._kept = self._kept[::2]
                self._stride *= 2
        self._seen += 1

    def examples(self, device: torch.device) -> list[Example]:
        """The kept examples, limited by MAX_MAP_ELEMENTS, but at least one if any was kept."""
        largest = max((example[1].shape[-1] for example in self._kept), default=1)
        many = max(1, min(len(self._kept), MAX_MAP_ELEMENTS // largest**2))
        chosen = [self._kept[i * len(self._kept) // many] for i in range(many)] if self._kept else []
        return [(ids.to(device), mask.to(device), label.to(device)) for ids, mask, label in chosen]


def diagnose(
    model: Classifier, examples: list[Example], first_proxies: Mapping[str, Tensor]
) -> dict[str, float]:
    """Means over the examples, per layer (name_layer1, ...) and over layers (name); {} if the mechanism is not low-rank."""
    if not MECHANISMS[model.config.attention].low_rank:
        return {}
    proxies = named_proxies(model)
    per_example = [diagnose_example(model, *example, proxies) for example in examples]
    layers = [
        {
            name: torch.stack([values[layer][name] for values in per_example]).mean()
            for name in per_example[0][layer]
        }
        for layer in range(len(per_example[0]) if per_example else 0)
    ]
    for figures, (name, weight) in zip(layers, proxies.items(), strict=False):
        first = first_proxies[name]
        figures["proxy_moved"] = (weight.detach() - first).norm() / first.norm()
    return summarize(layers)


def diagnose_example(
    model: Classifier, token_ids: Tensor, mask: Tensor, label: Tensor, proxies: Mapping[str, Tensor]
) -> list[dict[str, Tensor]]:
    """The scalars of each layer on one example."""
    trace = Trace(diagnose=True)
    weights = list(proxies.values())
    with torch.set_grad_enabled(bool(weights)):
        loss = F.cross_entropy(model(token_ids, mask, trace).float(), label)
        if trace.losses:
            contrastive = model.config.contrastive_weight * torch.stack(trace.losses).mean()
            of_contrast = torch.autograd.grad(contrastive, weights, retain_graph=True)
            of_classes = torch.autograd.grad(loss, weights)
            for figures, contrast, classes in zip(trace.diagnostics, of_contrast, of_classes, strict=False):
                ratio = contrast.norm() / classes.norm().clamp(min=torch.finfo(classes.dtype).tiny)
                figures["contrastive_gradient_ratio"] = ratio
    return trace.diagnostics


def summarize(layers: list[dict[str, Tensor]]) -> dict[str, float]:
    """One dict of scalars per layer -> means over layers, and each layer's values with the suffix _layer1, _layer2, ..."""
    names = list(dict.fromkeys(name for layer in layers for name in layer))
    means = {
        name: torch.stack([layer[name] for layer in layers if name in layer]).mean().item() for name in names
    }
    own = {
        f"{name}_layer{i}": value.item() for i, layer in enumerate(layers, 1) for name, value in layer.items()
    }
    return means | own
