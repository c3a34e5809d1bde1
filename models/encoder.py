"""The pre-norm Transformer encoder of the LRA protocol (mlpen/Nystromformer), around any attention mechanism."""

from __future__ import annotations

from torch import Tensor, nn

from proxytune.models.attention import MECHANISMS, Trace
from proxytune.models.config import ModelConfig
from proxytune.models.dropout import dropout

EMBEDDING_STD = 0.02


class Block(nn.Module):
    """x += dropout(attention(norm(x))); x += dropout(W_2 dropout(gelu(W_1 norm(x))))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(config.embedding_dim)
        self.attention = MECHANISMS[config.attention](config, layer)
        self.feedforward_norm = nn.LayerNorm(config.embedding_dim)
        self.expand = nn.Linear(config.embedding_dim, config.feedforward_dim)
        self.contract = nn.Linear(config.feedforward_dim, config.embedding_dim)

    def forward(self, x: Tensor, mask: Tensor, trace: Trace) -> Tensor:
        """(b, n, d) -> (b, n, d)."""
        x = x + self.drop(self.attention(self.attention_norm(x), mask, trace))
        hidden = self.drop(nn.functional.gelu(self.expand(self.feedforward_norm(x))))
        return x + self.drop(self.contract(hidden))

    def drop(self, x: Tensor) -> Tensor:
        """The model's dropout."""
        return dropout(x, self.dropout, self.training)


class Encoder(nn.Module):
    """Token and learned position embeddings, blocks, a final norm; the output is zero at padding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.tokens = nn.Embedding(config.vocab_size, config.embedding_dim)
        self.positions = nn.Embedding(config.max_length, config.embedding_dim)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=EMBEDDING_STD)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = nn.LayerNorm(config.embedding_dim)

    def forward(self, token_ids: Tensor, mask: Tensor, trace: Trace) -> Tensor:
        """Token ids (b, n) of any integer dtype and mask (b, n), n <= max_length -> (b, n, d)."""
        x = self.tokens(token_ids.int()) + self.positions.weight[: token_ids.shape[-1]]
        x = dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x, mask, trace)
        encoded: Tensor = self.norm(x) * mask[..., None]
        return encoded
