"""What every attention mechanism is: (batch, length, dim) in, the same out, a padding mask obeyed.

Shape suffixes in this package: b batch, h heads, n tokens, m proxies or landmarks, d embedding, e head dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from proxytune.models.config import ModelConfig

# Added to the logits of padding. It underflows to exactly 0 after softmax and is finite in fp16, so a row that is all
# padding gives numbers and not NaN.
MASKED_LOGIT = -30000.0


@dataclass
class Trace:
    """What layers hand on beside the hidden states, for the length of one forward pass.

    Attributes:
        losses: one scalar a layer that regularises (fp32).
        diagnostics: filled only if `diagnose`: one dict of scalars a layer.
        shared_proxies: proxies that later layers reuse, (m, d) or (b, m, d).
        carried: what the proxies read in the layer before, (b, m, d).
    """

    diagnose: bool = False
    losses: list[Tensor] = field(default_factory=list)
    diagnostics: list[dict[str, Tensor]] = field(default_factory=list)
    shared_proxies: Tensor | None = None
    carried: Tensor | None = None


class Attention(nn.Module, ABC):
    """One layer's multi-head attention; the four linear maps have a bias, as in the protocol."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Layer `layer` (from 0) of the model that `config` describes."""
        super().__init__()
        dim = config.embedding_dim
        self.num_heads = config.num_heads
        self.dropout = config.attention_dropout_probability
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """Refuse what this mechanism cannot build.

        Raises:
            ConfigError: with the rule.
        """

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor, trace: Trace) -> Tensor:
        """Attend over `x` (b, n, d); `mask` (b, n) is True at valid tokens. What comes out at padding is unspecified."""

    def split_heads(self, x: Tensor) -> Tensor:
        """(..., n, d) -> (..., h, n, e)."""
        return x.view(*x.shape[:-1], self.num_heads, -1).transpose(-2, -3)


class QueryKeyValueAttention(Attention):
    """A mechanism that needs nothing but queries, keys and values."""

    def forward(self, x: Tensor, mask: Tensor, trace: Trace) -> Tensor:
        q, k, v = (self.split_heads(project(x)) for project in (self.query, self.key, self.value))
        output: Tensor = self.output(merge_heads(self.attend(q, k, v, mask)))
        return output

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """The mechanism itself, (b, h, n, e) -> (b, h, n, e)."""


def merge_heads(x: Tensor) -> Tensor:
    """(..., h, n, e) -> (..., n, d)."""
    return x.transpose(-2, -3).flatten(-2)


def key_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(b, n) mask -> (b, 1, 1, n) to add to logits: 0 at valid tokens, MASKED_LOGIT at padding."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, MASKED_LOGIT)
    return bias[:, None, None, :]
