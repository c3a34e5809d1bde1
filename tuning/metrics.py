"""The metrics of a trial: their names, units and meanings, said once (DESIGN.md section 5)."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: its unit ("" = a share or a pure number), what it means, and when it is known."""

    unit: str
    meaning: str
    profile: bool = False  # known once per model configuration, before any training


MEMORY = "train_memory_mib_per_sequence"
"""What the memory gate, the front of a single objective and a trial out of memory are about."""

METRICS: dict[str, Metric] = {
    "val_accuracy": Metric(unit="", meaning="share of validation examples classified right"),
    "val_loss": Metric(unit="nats", meaning="mean cross-entropy over the validation examples"),
    "train_loss": Metric(unit="nats", meaning="mean cross-entropy since the last report"),
    "contrastive_loss": Metric(unit="nats", meaning="mean InfoNCE over the proxies of all layers"),
    "proxy_rank": Metric(unit="", meaning="effective rank of the proxies"),
    "proxy_cosine": Metric(unit="", meaning="mean off-diagonal |cosine| of the proxies"),
    "seconds": Metric(unit="s", meaning="training and evaluation time of the trial so far"),
    "tokens_per_second": Metric(
        unit="tokens/s", meaning="valid tokens trained on per second while other trials share the machine"
    ),
    MEMORY: Metric(unit="MiB", meaning="predicted peak of a training step over its batch", profile=True),
    "flops_per_sequence": Metric(unit="FLOP", meaning="forward pass of one sequence", profile=True),
    "parameters": Metric(unit="", meaning="trainable parameters of the model", profile=True),
}
