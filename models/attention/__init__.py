"""Attention mechanisms, one file each, and the registry that names them."""

from proxytune.models.attention.base import Attention, Trace
from proxytune.models.attention.proxyformer import Proxyformer
from proxytune.models.attention.softmax import CheckpointedSoftmax, ExplicitSoftmax, FusedSoftmax

# The values of `ModelConfig.attention`.
MECHANISMS: dict[str, type[Attention]] = {
    "proxyformer": Proxyformer,
    "softmax": FusedSoftmax,
    "softmax-checkpointed": CheckpointedSoftmax,
    "softmax-explicit": ExplicitSoftmax,
}

__all__ = ["MECHANISMS", "Attention", "Trace"]
