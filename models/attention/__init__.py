"""Attention mechanisms, one file each, and their registry."""

from proxytune.models.attention.base import Attention, Trace
from proxytune.models.attention.bigbird import BigBird
from proxytune.models.attention.linformer import Linformer
from proxytune.models.attention.nystromformer import Nystromformer
from proxytune.models.attention.performer import Performer
from proxytune.models.attention.proxyformer import Proxyformer
from proxytune.models.attention.reformer import Reformer
from proxytune.models.attention.softmax import CheckpointedSoftmax, ExplicitSoftmax, FusedSoftmax

# The values of `ModelConfig.attention`.
MECHANISMS: dict[str, type[Attention]] = {
    "bigbird": BigBird,
    "linformer": Linformer,
    "nystromformer": Nystromformer,
    "performer": Performer,
    "proxyformer": Proxyformer,
    "reformer": Reformer,
    "softmax": FusedSoftmax,
    "softmax-checkpointed": CheckpointedSoftmax,
    "softmax-explicit": ExplicitSoftmax,
}

__all__ = ["MECHANISMS", "Attention", "Trace"]
