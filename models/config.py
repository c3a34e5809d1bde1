"""ModelConfig: everything that determines a model's shape and loss; an invalid configuration cannot be constructed.

The rules of all mechanisms are here and not in the mechanisms' files, so that a configuration can be checked without
importing a mechanism, and a mechanism can rely on a valid configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxytune.models.errors import ConfigError
from proxytune.models.rules import (
    require_at_least,
    require_kernel_size,
    require_landmarks,
    require_not_negative,
    require_one_of,
    require_positive,
    require_probability,
)

MOST_PARAMETERS = 10**10
"""Larger models are refused before they are built, to catch typing errors."""

INJECTIONS = ("none", "segment", "cross-attention", "carried")
INJECTION_LENGTHS = ("valid", "padded")
DROPOUTS = ("none", "column", "proxy", "element", "key")
CONTRASTS = ("none", "self", "two-views", "kernel", "kernel-logits")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A two-layer-by-default Transformer encoder with one of the attention mechanisms, and a classifier on top.

    The defaults are the LRA protocol of Nyströmformer (arXiv 2102.03902). For Proxyformer (10.1609/aaai.v38i12.29244)
    128 proxies, temperature 0.07 and dropout 0.1 are published; its other defaults, and the temperature, were chosen by
    this package's own measurements (ARCHITECTURE.md). Fields of other mechanisms are ignored.

    Raises:
        ConfigError: a value is out of range, or the mechanism does not support the combination.
    """

    # Set by the task.
    vocab_size: int
    max_length: int  # padded length in tokens, used by the segment grid and the pooling
    num_classes: int
    num_documents: int = 1  # 2: the head compares two documents (Retrieval)

    # The encoder.
    attention: str = "proxyformer"
    num_layers: int = 2
    embedding_dim: int = 64
    feedforward_dim: int = 128  # also the hidden width of the classifier's head
    num_heads: int = 2
    dropout: float = (
        0.1  # probability, [0, 1): on embeddings, on both residual branches, inside the feed-forward
    )
    attention_dropout: float | None = (
        None  # probability, [0, 1): inside the attention only; None: same as dropout
    )
    attention_precision: str = (
        "fp32"  # fp32 | autocast: precision of the attention's core under autocast (base.py)
    )

    # Proxyformer (attention/proxyformer.py defines each choice).
    num_proxies: int = 128
    proxy_init_std: float = 0.05  # > 0; of the initial proxies (docs/RESULTS.md: learns faster than with 1.0)
    contrastive_temperature: float = 0.2  # > 0; kernel-logits has none
    contrastive_weight: float = 0.001  # >= 0; multiplies the mean over layers
    contrastive: str = "kernel"  # none | self | two-views | kernel | kernel-logits
    injection: str = "segment"  # none | segment | cross-attention | carried
    injection_length: str = (
        "valid"  # valid | padded: the length that injection 'segment' divides into segments
    )
    decomposed_dropout: str = "column"  # none | column | proxy | element | key
    pseudo_inverse: bool = False  # Nyström's middle factor, 6 iterations
    shared_proxies: bool = False  # one set of proxies for all layers
    own_proxy_projections: bool = False  # separate projections for proxies instead of the tokens'

    # Other mechanisms.
    conv_kernel_size: int = 0  # odd; 0: none; Proxyformer and Nyströmformer (the latter's public code: 35)
    num_landmarks: int = 128  # Nyströmformer
    num_features: int = 128  # Linformer's projected length, Performer's random features
    performer_kernel: str = "softmax"  # softmax | relu
    num_hashes: int = 2  # Reformer
    block_size: int = 64  # tokens per block, BigBird and Reformer
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
        require_one_of("attention_precision", self.attention_precision, ("fp32", "autocast"))
        require_one_of("attention", self.attention, tuple(CHECKS))
        CHECKS[self.attention](self)
        if self.num_parameters > MOST_PARAMETERS:
            raise ConfigError(
                f"a model of {self.num_parameters:.1e} parameters: at most {MOST_PARAMETERS:.0e} are allowed; "
                f"lower embedding_dim ({self.embedding_dim}), feedforward_dim ({self.feedforward_dim}) "
                f"or num_layers ({self.num_layers})"
            )

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters, counted without building the model."""
        dim, hidden = self.embedding_dim, self.feedforward_dim
        block = 4 * dim * (dim + 1) + 2 * dim * hidden + hidden + dim + 4 * dim
        features = dim * (4 if self.num_documents == 2 else 1)
        head = (features + 1) * hidden + (hidden + 1) * self.num_classes
        embeddings = (self.vocab_size + self.max_length + 2) * dim  # and the last norm
        own = sum(self._num_own_parameters(layer) for layer in range(self.num_layers))
        return embeddings + self.num_layers * block + own + head

    def _num_own_parameters(self, layer: int) -> int:
        """Number of parameters of the layer's mechanism besides the four linear maps of base.py."""
        dim, convolution = self.embedding_dim, self.num_heads * self.conv_kernel_size
        if self.attention == "nystromformer":
            return convolution
        if self.attention == "linformer":
            return self.num_heads * self.num_features * self.max_length
        if self.attention == "reformer":
            return -dim * (dim + 3)  # queries are keys, and neither they nor the values have a bias
        if self.attention != "proxyformer":
            return 0
        proxies = 0 if layer and self.shared_proxies else self.num_proxies * dim
        matrices = {"none": 0, "segment": 1, "cross-attention": 3, "carried": min(layer, 1)}[self.injection]
        projections = 2 * dim * (dim + 1) if self.own_proxy_projections else 0
        return proxies + 2 * dim + matrices * dim**2 + projections + convolution

    @property
    def head_dim(self) -> int:
        """Dimensions of one head."""
        return self.embedding_dim // self.num_heads

    @property
    def attention_dropout_probability(self) -> float:
        """Dropout probability inside the attention: `attention_dropout`, or by default `dropout`."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout


def check_proxyformer(config: ModelConfig) -> None:
    """The rules of attention/proxyformer.py."""
    require_one_of("injection", config.injection, INJECTIONS)
    require_one_of("injection_length", config.injection_length, INJECTION_LENGTHS)
    require_one_of("decomposed_dropout", config.decomposed_dropout, DROPOUTS)
    require_one_of("contrastive", config.contrastive, CONTRASTS)
    require_positive("contrastive_temperature", config.contrastive_temperature)
    require_not_negative("contrastive_weight", config.contrastive_weight)
    require_positive("proxy_init_std", config.proxy_init_std)
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
            "choose another contrastive or an injection"
        )
    if config.injection_length == "padded" and config.injection != "segment":
        raise ConfigError(
            f"injection_length is 'padded' with injection {config.injection!r}: only 'segment' divides a length; "
            "remove injection_length"
        )


def check_nystromformer(config: ModelConfig) -> None:
    """The rules of attention/nystromformer.py."""
    require_landmarks("num_landmarks", config.num_landmarks, config.max_length)
    require_kernel_size("conv_kernel_size", config.conv_kernel_size)


def check_linformer(config: ModelConfig) -> None:
    """The rules of attention/linformer.py."""
    require_landmarks("num_features", config.num_features, config.max_length)


def check_performer(config: ModelConfig) -> None:
    """The rules of attention/performer.py."""
    require_at_least("num_features", config.num_features, 1)
    require_one_of("performer_kernel", config.performer_kernel, ("softmax", "relu"))


def check_reformer(config: ModelConfig) -> None:
    """The rules of attention/reformer.py."""
    require_at_least("num_hashes", config.num_hashes, 1)
    require_at_least("block_size", config.block_size, 1)


def check_bigbird(config: ModelConfig) -> None:
    """The rules of attention/bigbird.py."""
    require_at_least("block_size", config.block_size, 1)
    require_at_least("num_random_blocks", config.num_random_blocks, 0)


def check_softmax(config: ModelConfig) -> None:
    """The mechanisms of attention/softmax.py have no fields."""


# Check of each value of `attention`.
CHECKS: dict[str, Callable[[ModelConfig], None]] = {
    "bigbird": check_bigbird,
    "linformer": check_linformer,
    "nystromformer": check_nystromformer,
    "performer": check_performer,
    "proxyformer": check_proxyformer,
    "reformer": check_reformer,
    "softmax": check_softmax,
    "softmax-checkpointed": check_softmax,
    "softmax-explicit": check_softmax,
}
