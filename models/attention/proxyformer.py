"""Proxyformer attention (Lee, Lee, Shin, AAAI-24, 10.1609/aaai.v38i12.29244): trainable proxy tokens as landmarks.

The paper's text is not public. This formulation follows its abstract and a news item; every choice is an option:

    P~ = LN(P + Inject(X))                             m proxies, (b, m, d); P drawn from N(0, proxy_init_std^2)
    Q, K, V = X W_Q, X W_K, X W_V                      Q_P, K_P = P~ W_Q, P~ W_K
    K1 = softmax(Q K_P^T / sqrt(e))  (n x m)           K2 = softmax(Q_P K^T / sqrt(e) + padding)  (m x n)
    out = (K1 (K2' V)) W_O                             K2' = K2 with whole columns dropped while training

Dropping column j of K2 equals dropping row j of V, so both products are fused attention calls and no n x m matrix is
stored. K1 K2 is row-stochastic. Cost O(n m d). Loss: InfoNCE (contrastive.py). K1 K2 is the Nyström approximation of
softmax if the middle kernel softmax(Q_P K_P^T / sqrt(e)) is the identity. The contrasts `kernel` and `kernel-logits` drive
it there.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxytune.models.attention.base import MASKED_LOGIT, Attention, Trace, key_bias, merge_heads
from proxytune.models.attention.convolution import ValueConvolution
from proxytune.models.attention.pinv import iterative_pinv
from proxytune.models.attention.segments import padded_segment_means, valid_segment_means
from proxytune.models.config import ModelConfig
from proxytune.models.contrastive import info_nce, kernel_logits_loss
from proxytune.models.diagnostics import diagnose_landmarks, diagnose_map, diagnose_proxies
from proxytune.models.dropout import scaled_keep


class Proxyformer(Attention):
    """`proxyformer`: two fused attention calls through m proxies.

    injection: how the proxies depend on the input.
        none             P~ = LN(P)
        segment          Inject = SegMean(X) W: the mean of the valid tokens in each of m contiguous segments; an empty
                         segment injects nothing. injection_length is the length that is divided into segments: `valid`,
                         each sequence's valid tokens, or `padded`, the task's length (short sequences reach few proxies).
        cross-attention  Inject = softmax(P W_a (X W_b)^T / sqrt(d)) X W_c
        carried          Inject = (K2 V of the layer before) W; nothing in the first layer
    decomposed_dropout: what is dropped with probability attention_dropout, while training.
        column   columns of K2, i.e. keys of the whole map, scaled by 1 / (1 - p)
        proxy    whole proxies: columns of K1 with their rows of K2, scaled
        element  entries of K1 and of K2, scaled (explicit matrices on a CPU)
        key      logits of whole keys before the softmax of K2, no scaling (DropKey, arXiv 2208.02646)
    contrastive: what the proxies' loss compares (formulas in contrastive.py); its weight is contrastive_weight.
        self           P~ with itself                    two-views      LN(P) with P~
        kernel         Q_P with K_P per head, cosines    kernel-logits  the same, by the logits of the middle kernel
    pseudo_inverse: out = K1 pinv(softmax(Q_P K_P^T / sqrt(e))) (K2' V), as in Nyströmformer.
    """

    low_rank = True

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        dim = config.embedding_dim
        self.num_proxies = config.num_proxies
        self.max_length = config.max_length
        self.injection_length = config.injection_length
        self.injection = "none" if config.injection == "carried" and layer == 0 else config.injection
        self.decomposed_dropout = config.decomposed_dropout
        self.contrastive = config.contrastive
        self.temperature = config.contrastive_temperature
        # LN removes P's scale, which still determines how fast P rotates and its weight relative to the injection.
        own = layer == 0 or not config.shared_proxies
        drawn = torch.randn(config.num_proxies, dim) * config.proxy_init_std
        self.proxies = nn.Parameter(drawn) if own else None
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

    def forward(self, x: Tensor, mask: Tensor, trace: Trace) -> Tensor:
        """As Attention.forward; appends the contrastive loss, and with `trace.diagnose` the diagnostics, to `trace`."""
        proxies = self.inject_input(x, mask, trace)
        q, k, v = (self.split_heads(project(x)) for project in (self.query, self.key, self.value))
        projections = (self.proxy_query, self.proxy_key) if self.own_projections else (self.query, self.key)
        q_p, k_p = (self.split_heads(project(proxies)) for project in projections)
        if trace.diagnose or self.training:
            self.add_kernel_loss(q_p, k_p, trace)
        q_p, k_p = (heads.expand(x.shape[0], -1, -1, -1) for heads in (q_p, k_p))
        if trace.diagnose:
            figures = self.core(partial(self.diagnose, mask=mask), proxies, q, k, q_p, k_p)
            trace.diagnostics.append(figures)
        attended, trace.carried = self.core(partial(self.attend, mask=mask), q, k, v, q_p, k_p)
        merged: Tensor = self.output(merge_heads(attended))
        return merged

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, q_p: Tensor, k_p: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(b, h, n, e) for the tokens and (b, h, m, e) for the proxies -> (b, h, n, e), and K2' V as (b, m, d)."""
        attended, summary = self.approximate(q, k, v, q_p, k_p, mask)
        if self.conv is not None:
            attended = attended + self.conv(v, mask)
        return attended, merge_heads(summary)

    def approximate(
        self, q: Tensor, k: Tensor, v: Tensor, q_p: Tensor, k_p: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The two factors applied to `v`: K1 (K2' V), (b, h, n, e), and K2' V, (b, h, m, e)."""
        p = self.dropout if self.training else 0.0
        kind = self.decomposed_dropout if p else "none"
        padding = key_bias(mask, q.dtype)
        values = v
        if kind == "column":  # (K2 D) V = K2 (D V) for a diagonal D
            values = v * scaled_keep((*v.shape[:-1], 1), p, like=v)
        elif kind == "key":
            kept = scaled_keep((q.shape[0], self.num_heads, 1, q.shape[-2]), p, like=padding)
            padding = padding.masked_fill(kept == 0, MASKED_LOGIT)
        element = p if kind == "element" else 0.0

        summary = F.scaled_dot_product_attention(q_p, k, values, attn_mask=padding, dropout_p=element)
        read = summary
        if kind == "proxy":
            read = read * scaled_keep((*read.shape[:-1], 1), p, like=read)
        if self.pseudo_inverse:
            middle = torch.softmax(q_p @ k_p.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1)
            read = iterative_pinv(middle).to(read.dtype) @ read
        return F.scaled_dot_product_attention(q, k_p, read, dropout_p=element), summary

    def inject_input(self, x: Tensor, mask: Tensor, trace: Trace) -> Tensor:
        """P~: (b, m, d), or (1, m, d) without injection. Adds a loss over proxies to `trace`."""
        static = trace.shared_proxies if self.proxies is None else self.proxies[None]
        assert static is not None
        read = self.read_input(x, mask, trace, static)
        proxies: Tensor = self.proxy_norm(static if read is None else static + self.inject(read))
        trace.shared_proxies = proxies if self.injection == "carried" else static
        if self.contrastive in ("self", "two-views") and (trace.diagnose or self.training):
            anchors = proxies if self.contrastive == "self" else self.proxy_norm(static)
            trace.losses.append(info_nce(anchors, proxies, self.temperature))
        return proxies

    def read_input(self, x: Tensor, mask: Tensor, trace: Trace, static: Tensor) -> Tensor | None:
        """The input's contribution to each proxy, (b, m, d), before the linear map W; None without injection."""
        match self.injection:
            case "segment" if self.injection_length == "valid":
                return valid_segment_means(x, mask, self.num_proxies)
            case "segment":
                return padded_segment_means(x, mask, self.num_proxies, self.max_length)
            case "cross-attention":
                queries = self.inject_query(static).expand(x.shape[0], -1, -1)
                query, key, value = (tokens[:, None] for tokens in (queries, self.inject_key(x), x))

                def read(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
                    bias = key_bias(mask, query.dtype)
                    return F.scaled_dot_product_attention(query, key, value, bias)

                return self.core(read, query, key, value).squeeze(1)
            case "carried":
                return trace.carried
        return None

    def add_kernel_loss(self, q_p: Tensor, k_p: Tensor, trace: Trace) -> None:
        """Add the contrastive loss between Q_P and K_P, (b or 1, h, m, e), if configured."""
        if self.contrastive == "kernel":
            trace.losses.append(info_nce(q_p, k_p, self.temperature))
        elif self.contrastive == "kernel-logits":
            trace.losses.append(kernel_logits_loss(q_p, k_p))

    def diagnose(
        self, proxies: Tensor, q: Tensor, k: Tensor, q_p: Tensor, k_p: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """The scalars of diagnostics.py."""

        def attend(values: Tensor) -> Tensor:
            return self.approximate(q, k, values, q_p, k_p, mask)[0]

        return (
            diagnose_map(attend, q, k, mask)
            | diagnose_landmarks([q_p, k_p])
            | diagnose_proxies(proxies, q, k, q_p, k_p, mask)
        )
