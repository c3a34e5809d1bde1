"""ModelConfig: everything that decides a model's shape and loss; one that cannot be built cannot be constructed."""

from __future__ import annotations

from dataclasses import dataclass

from proxytune.models.attention import MECHANISMS
from proxytune.models.errors import ConfigError
from proxytune.models.rules import require_at_least, require_one_of, require_probability

MOST_WEIGHTS = 10**10
"""A rule against slips of the keyboard: what is larger is refused before it is built."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A two-layer-by-default Transformer encoder with one of the attention mechanisms, and a classifier on top.

    The defaults are the LRA protocol of Nyströmformer (arXiv 2102.03902) and, for Proxyformer
    (10.1609/aaai.v38i12.29244), the paper's setting where it is known: 128 proxies, temperature 0.07, dropout 0.1.
    Fields of a mechanism that is not chosen are ignored.

    Raises:
        ConfigError: a value is out of range, or the mechanism refuses the combination.
    """

    # From the task.
    vocab_size: int
    max_length: int  # padded length in tokens; the segment grid and the pooling are laid over it
    num_classes: int
    num_documents: int = 1  # 2: the head compares two documents (Retrieval)

    # The encoder.
    attention: str = "proxyformer"
    num_layers: int = 2
    embedding_dim: int = 64
    feedforward_dim: int = 128  # also the hidden width of the classifier's head
    num_heads: int = 2
    dropout: float = 0.1  # probability, [0, 1)
    attention_dropout: float | None = None  # probability, [0, 1); None follows dropout

    # Proxyformer (attention/proxyformer.py says what each choice computes).
    num_proxies: int = 128
    contrastive_temperature: float = 0.07  # > 0
    contrastive_weight: float = 0.1  # >= 0; multiplies the mean over layers
    contrastive: str = "self"  # none | self | two-views
    injection: str = "segment"  # none | segment | cross-attention | carried
    decomposed_dropout: str = "column"  # none | column | proxy | element | key
    pseudo_inverse: bool = False  # Nyström's middle factor, 6 iterations
    shared_proxies: bool = False  # one set of proxies for all layers
    own_proxy_projections: bool = False  # proxies get projections of their own instead of the tokens'

    # The others.
    conv_kernel_size: int = 0  # odd; 0: none; Proxyformer and Nyströmformer (the latter's public code: 35)
    num_landmarks: int = 128  # Nyströmformer
    num_features: int = 128  # Linformer's projected length, Performer's random features
    performer_kernel: str = "softmax"  # softmax | relu
    num_hashes: int = 2  # Reformer
    block_size: int = 64  # tokens a block, BigBird and Reformer
    num_random_blocks: int = 3  # BigBird

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "max_length",
            "num_classes",
            "embedding_dim",
            "feedforward_dim",
        ):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("num_layers", self.num_layers, 1, highest=1000)
        require_one_of("num_documents", self.num_documents, (1, 2))
        require_at_least("num_heads", self.num_heads, 1)
        if self.embedding_dim % self.num_heads:
            raise ConfigError(
                f"num_heads {self.num_heads} does not divide embedding_dim {self.embedding_dim}: "
                "choose a divisor of embedding_dim"
            )
        require_probability("dropout", self.dropout)
        if self.attention_dropout is not None:
            require_probability("attention_dropout", self.attention_dropout)
        require_one_of("attention", self.attention, tuple(MECHANISMS))
        MECHANISMS[self.attention].check(self)
        if self.num_weights > MOST_WEIGHTS:
            raise ConfigError(
                f"a model of over {self.num_weights:.1e} weights: at most {MOST_WEIGHTS:.0e} are allowed; "
                f"lower embedding_dim ({self.embedding_dim}), feedforward_dim ({self.feedforward_dim}) "
                f"or num_layers ({self.num_layers})"
            )

    @property
    def num_weights(self) -> int:
        """Weights of the embeddings and of the blocks' matrices: a lower bound, without building anything."""
        block = 4 * self.embedding_dim**2 + 2 * self.embedding_dim * self.feedforward_dim
        return self.num_layers * block + (self.vocab_size + self.max_length) * self.embedding_dim

    @property
    def head_dim(self) -> int:
        """Dimensions of one head."""
        return self.embedding_dim // self.num_heads

    @property
    def attention_dropout_probability(self) -> float:
        """Dropout inside the attention: its own value, or the model's."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout
