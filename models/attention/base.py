"""The interface of all attention mechanisms: (batch, length, dim) -> (batch, length, dim); padding is masked.

Shape suffixes in this package: b batch, h heads, n tokens, m proxies or landmarks, d embedding, e head dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from proxytune.models.attention.convolution import ValueConvolution
from proxytune.models.config import ModelConfig
from proxytune.models.diagnostics import diagnose_landmarks, diagnose_map

Result = TypeVar("Result")

# Added to the logits of padding. It underflows to exactly 0 after softmax and is finite in fp16, so a row that consists of
# padding does not give NaN.
MASKED_LOGIT = -30000.0


@dataclass
class Trace:
    """Outputs of the layers besides the hidden states during one forward pass.

    Attributes:
        losses: one contrastive loss (fp32 scalar) per layer, while training or with `diagnose`.
        diagnostics: one dict of scalars per layer, with `diagnose` only.
        shared_proxies: proxies that later layers reuse, (1, m, d) or (b, m, d).
        carried: K2' V of the layer before (proxyformer.py), (b, m, d).
    """

    diagnose: bool = False
    losses: list[Tensor] = field(default_factory=list)
    diagnostics: list[dict[str, Tensor]] = field(default_factory=list)
    shared_proxies: Tensor | None = None
    carried: Tensor | None = None


class Attention(nn.Module, ABC):
    """One layer's multi-head attention; the four linear maps have a bias, as in the protocol.

    Attributes:
        low_rank: its map approximates softmax by a product over m < n landmarks or features, so its error is reported
            (diagnostics.py).
        conv: the optional convolution over values of Nyströmformer and Proxyformer.
    """

    low_rank: ClassVar[bool] = False

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create layer `layer` (from 0) of the model described by `config`."""
        super().__init__()
        dim = config.embedding_dim
        self.num_heads = config.num_heads
        self.dropout = config.attention_dropout_probability
        self.fp32_core = config.attention_precision == "fp32"
        self.conv: ValueConvolution | None = None
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor, trace: Trace) -> Tensor:
        """Attend over `x` (b, n, d); `mask` (b, n) is True at valid tokens. The output at padding is unspecified."""

    def split_heads(self, x: Tensor) -> Tensor:
        """(..., n, d) -> (..., h, n, e)."""
        return x.view(*x.shape[:-1], self.num_heads, -1).transpose(-2, -3)

    def core(self, attend: Callable[..., Result], *heads: Tensor) -> Result:
        """attend(*heads) in the precision of ModelConfig.attention_precision, if autocast is enabled.

        fp32: autocast is disabled in it and the heads are cast to fp32, as in the protocol. The linear maps around it keep
        autocast's dtype. autocast: autocast decides for each operation.
        """
        device = heads[0].device.type
        if not self.fp32_core or not torch.is_autocast_enabled(device):
            return attend(*heads)
        with torch.autocast(device, enabled=False):
            return attend(*(head.float() for head in heads))


class QueryKeyValueAttention(Attention):
    """A mechanism that needs only queries, keys and values."""

    def forward(self, x: Tensor, mask: Tensor, trace: Trace) -> Tensor:
        q, k, v = (self.split_heads(project(x)) for project in (self.query, self.key, self.value))
        if trace.diagnose and self.low_rank:
            trace.diagnostics.append(self.core(partial(self.diagnose, mask=mask), q, k))
        output: Tensor = self.output(
            merge_heads(self.core(partial(self.attend_and_convolve, mask=mask), q, k, v))
        )
        return output

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """The mechanism itself, linear in `v`: (b, h, n, e) -> the shape of `v`, which may have another width."""

    def landmarks(self, q: Tensor, k: Tensor, mask: Tensor) -> list[Tensor]:
        """Landmarks of queries and keys, each (b, h, m, e): both, of keys only, or none."""
        return []

    def attend_and_convolve(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """attend, plus the convolution if there is one."""
        attended = self.attend(q, k, v, mask)
        return attended if self.conv is None else attended + self.conv(v, mask)

    def diagnose(self, q: Tensor, k: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The scalars of diagnostics.py that are defined for the mechanism."""
        landmarks = self.landmarks(q, k, mask)
        return diagnose_map(partial(self.attend, q, k, mask=mask), q, k, mask) | diagnose_landmarks(landmarks)


def merge_heads(x: Tensor) -> Tensor:
    """(..., h, n, e) -> (..., n, d)."""
    return x.transpose(-2, -3).flatten(-2)


def key_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(b, n) mask -> (b, 1, 1, n) to add to logits: 0 at valid tokens, MASKED_LOGIT at padding."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, MASKED_LOGIT)
    return bias[:, None, None, :]
