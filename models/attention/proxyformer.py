"""Proxyformer attention (Lee, Lee, Shin, AAAI-24, 10.1609/aaai.v38i12.29244): trainable proxy tokens as landmarks.

The paper's text is not public; this is a formulation of what its abstract and news item say, every choice a switch:

    P~ = LN(P + Inject(X))                             m proxies, (b, m, d)
    Q, K, V = X W_Q, X W_K, X W_V                      Q_P, K_P = P~ W_Q, P~ W_K
    K1 = softmax(Q K_P^T / sqrt(e))  (n x m)           K2 = softmax(Q_P K^T / sqrt(e) + padding)  (m x n)
    out = (K1 (K2' V)) W_O                             K2' = K2 with whole columns dropped while training

Dropping column j of K2 is dropping row j of V, so both products are fused attention calls and no n x m matrix is held.
K1 K2 is row-stochastic. Cost O(n m d). Loss: InfoNCE over P~ (contrastive.py).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxytune.models.attention.base import MASKED_LOGIT, Attention, Trace, key_bias, merge_heads
from proxytune.models.attention.convolution import ValueConvolution
from proxytune.models.attention.pinv import iterative_pinv
from proxytune.models.attention.segments import segment_means
from proxytune.models.contrastive import info_nce
from proxytune.models.diagnostics import diagnose
from proxytune.models.dropout import scaled_keep
from proxytune.models.errors import ConfigError
from proxytune.models.rules import (
    require_kernel_size,
    require_landmarks,
    require_not_negative,
    require_one_of,
    require_positive,
)

if TYPE_CHECKING:
    from proxytune.models.config import ModelConfig

INJECTIONS = ("none", "segment", "cross-attention", "carried")
DROPOUTS = ("none", "column", "proxy", "element", "key")
CONTRASTS = ("none", "self", "two-views")


class Proxyformer(Attention):
    """`proxyformer`: two fused attention calls through m proxies.

    injection: what makes the proxies depend on the input.
        none             P~ = LN(P)
        segment          Inject = SegMean(X) W: the mean of the valid tokens in each of m contiguous segments of the
                         task's length; an empty segment injects nothing. Depends on positions, not on the padding.
        cross-attention  Inject = softmax(P W_a (X W_b)^T / sqrt(d)) X W_c
        carried          Inject = (K2 V of the layer before) W; nothing in the first layer
    decomposed_dropout: what is dropped with probability attention_dropout, while training.
        column   columns of K2, i.e. keys of the whole map, scaled by 1 / (1 - p)
        proxy    whole proxies: columns of K1 with their rows of K2, scaled
        element  entries of K1 and of K2, scaled (explicit matrices on a CPU)
        key      logits of whole keys before the softmax of K2, no scaling (DropKey, arXiv 2208.02646)
    pseudo_inverse: out = K1 pinv(softmax(Q_P K_P^T / sqrt(e))) (K2' V), as in Nyströmformer.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        dim = config.embedding_dim
        self.num_proxies = config.num_proxies
        self.max_length = config.max_length
        self.injection = "none" if config.injection == "carried" and layer == 0 else config.injection
        self.decomposed_dropout = config.decomposed_dropout
        self.contrastive = config.contrastive
        self.temperature = config.contrastive_temperature
        # N(0, 1) and not the embeddings' 0.02: with a tiny P, K1 stays uniform for most of a short training.
        own = layer == 0 or not config.shared_proxies
        self.proxies = nn.Parameter(torch.randn(config.num_proxies, dim)) if own else None
        self.proxy_norm = nn.LayerNorm(dim)
        if self.injection != "none":
            self.inject = nn.Linear(dim, dim, bias=False)
        if self.injection == "cross-attention":
            self.inject_query = nn.Linear(dim, dim, bias=False)
            self.inject_key = nn.Linear(dim, dim, bias=False)
        self.own_projections = config.own_proxy_projections
        if self.own_projections:
            self.proxy_query = nn.Linear(dim, dim)
            self.proxy_key = nn.Linear(dim, dim)
        self.pseudo_inverse = config.pseudo_inverse
        self.conv = ValueConvolution(config) if config.conv_kernel_size else None

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        require_one_of("injection", config.injection, INJECTIONS)
        require_one_of("decomposed_dropout", config.decomposed_dropout, DROPOUTS)
        require_one_of("contrastive", config.contrastive, CONTRASTS)
        require_positive("contrastive_temperature", config.contrastive_temperature)
        require_not_negative("contrastive_weight", config.contrastive_weight)
        require_landmarks("num_proxies", config.num_proxies, config.max_length)
        for name in ("pseudo_inverse", "shared_proxies", "own_proxy_projections"):
            require_one_of(name, getattr(config, name), (True, False))
        require_kernel_size("conv_kernel_size", config.conv_kernel_size)
        if config.injection == "carried" and config.num_layers == 1:
            raise ConfigError(
                "injection is 'carried' with num_layers 1: nothing is carried into the first layer; "
                "add a layer or choose another injection"
            )
        if config.contrastive == "two-views" and config.injection == "none":
            raise ConfigError(
                "contrastive is 'two-views' with injection 'none': both views are the same; "
                "choose 'self' or an injection"
            )

    def forward(self, x: Tensor, mask: Tensor, trace: Trace) -> Tensor:
        """As Attention.forward; appends the contrastive loss, and the diagnostics if asked, to `trace`."""
        padding = key_bias(mask, x.dtype)
        proxies = self.inject_input(x, mask, padding, trace)
        q, k, v = (self.split_heads(project(x)) for project in (self.query, self.key, self.value))
        projections = (self.proxy_query, self.proxy_key) if self.own_projections else (self.query, self.key)
        q_p, k_p = (
            self.split_heads(project(proxies)).expand(x.shape[0], -1, -1, -1) for project in projections
        )
        if trace.diagnose:
            trace.diagnostics.append(diagnose(proxies, q, k, q_p, k_p, padding))

        p = self.dropout if self.training else 0.0
        kind = self.decomposed_dropout if p else "none"
        values = v
        if kind == "column":  # (K2 D) V = K2 (D V) for a diagonal D
            values = v * scaled_keep((*v.shape[:-1], 1), p, like=v)
        elif kind == "key":
            kept = scaled_keep((x.shape[0], self.num_heads, 1, x.shape[-2]), p, like=padding)
            padding = padding.masked_fill(kept == 0, MASKED_LOGIT)
        element = p if kind == "element" else 0.0

        # (b, h, m, e): what each proxy reads from the tokens, K2' V
        summary = F.scaled_dot_product_attention(q_p, k, values, attn_mask=padding, dropout_p=element)
        trace.carried = merge_heads(summary)
        if kind == "proxy":
            summary = summary * scaled_keep((*summary.shape[:-1], 1), p, like=summary)
        if self.pseudo_inverse:
            middle = torch.softmax(q_p @ k_p.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1)
            summary = iterative_pinv(middle).to(summary.dtype) @ summary
        attended = F.scaled_dot_product_attention(q, k_p, summary, dropout_p=element)
        if self.conv is not None:
            attended = attended + self.conv(v, mask)
        merged: Tensor = self.output(merge_heads(attended))
        return merged

    def inject_input(self, x: Tensor, mask: Tensor, padding: Tensor, trace: Trace) -> Tensor:
        """P~: (b, m, d), or (1, m, d) where nothing of the input enters. Adds the contrastive loss to `trace`."""
        static = trace.shared_proxies if self.proxies is None else self.proxies[None]
        assert static is not None
        read = self.read_input(x, mask, padding, trace, static)
        proxies: Tensor = self.proxy_norm(static if read is None else static + self.inject(read))
        trace.shared_proxies = proxies if self.injection == "carried" else static
        if self.contrastive != "none" and self.training:
            anchors = proxies if self.contrastive == "self" else self.proxy_norm(static)
            trace.losses.append(info_nce(anchors, proxies, self.temperature))
        return proxies

    def read_input(
        self, x: Tensor, mask: Tensor, padding: Tensor, trace: Trace, static: Tensor
    ) -> Tensor | None:
        """What the input says to each proxy, (b, m, d), before the linear map W; None without injection."""
        match self.injection:
            case "segment":
                return segment_means(x, mask, self.num_proxies, self.max_length)
            case "cross-attention":
                queries = self.inject_query(static).expand(x.shape[0], -1, -1)
                query, key, value = (tokens[:, None] for tokens in (queries, self.inject_key(x), x))
                return F.scaled_dot_product_attention(query, key, value, padding).squeeze(1)
            case "carried":
                return trace.carried
        return None
