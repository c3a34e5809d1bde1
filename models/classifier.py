"""The classifier of the LRA protocol: encoder, mean over the task's length, two-layer head; one or two documents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proxytune.models.attention import Trace
from proxytune.models.config import ModelConfig
from proxytune.models.encoder import Encoder


class Classifier(nn.Module):
    """Logits of one document, or of a pair (Retrieval) from [a, b, a * b, a - b] of their pooled encodings.

    As in the protocol, pooling divides by max_length and not by the number of valid tokens (padding counts as zeros), so
    trimming a batch to its longest document changes no logit.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        features = config.embedding_dim * (4 if config.num_documents == 2 else 1)
        self.head = nn.Sequential(
            nn.Linear(features, config.feedforward_dim),
            nn.ReLU(),
            nn.Linear(config.feedforward_dim, config.num_classes),
        )

    def forward(self, token_ids: Tensor, mask: Tensor, trace: Trace | None = None) -> Tensor:
        """(b, n) token ids and mask, or (b, 2, n) for two documents -> (b, num_classes) logits.

        Args:
            token_ids: integers in [0, vocab_size), n <= max_length.
            mask: True at valid tokens.
            trace: collects the layers' contrastive losses and diagnostics.
        """
        trace = Trace() if trace is None else trace
        length = token_ids.shape[-1]
        encoded = self.encoder(token_ids.reshape(-1, length), mask.reshape(-1, length), trace)
        pooled = encoded.sum(dim=1) / self.config.max_length
        if self.config.num_documents == 2:
            a, b = pooled.unflatten(0, (-1, 2)).unbind(dim=1)
            pooled = torch.cat([a, b, a * b, a - b], dim=-1)
        logits: Tensor = self.head(pooled)
        return logits
