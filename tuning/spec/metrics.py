"""The metrics of a trial: names, units and meanings, defined once."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: its unit ("" for a fraction or a pure number), its meaning, and how it is obtained.

    report: by training, in each report. predicted: once per model configuration, before anything runs.
    measured: once per distinct model configuration, before its training, if the study uses it.
    """

    unit: str
    meaning: str
    known: Literal["report", "predicted", "measured"] = "report"
    better: Direction = "minimize"


MEMORY = "train_memory_mib_per_sequence"
"""Used by the memory gate, the Pareto front of a single objective and the handling of out-of-memory errors."""

METRICS: dict[str, Metric] = {
    "val_accuracy": Metric(
        unit="", meaning="fraction of validation examples classified correctly", better="maximize"
    ),
    "best_val_accuracy": Metric(
        unit="", meaning="highest val_accuracy of the trial so far", better="maximize"
    ),
    "best_step": Metric(unit="steps", meaning="optimizer step of best_val_accuracy, the earliest of equals"),
    "val_loss": Metric(unit="nats", meaning="mean cross-entropy over the validation examples"),
    "train_loss": Metric(unit="nats", meaning="mean cross-entropy since the last report"),
    "contrastive_loss": Metric(
        unit="nats", meaning="mean InfoNCE over the proxies of all layers, unweighted"
    ),
    "map_error": Metric(
        unit="", meaning="|A - S| / |S| of a low-rank mechanism's map A to softmax's S on the same Q and K"
    ),
    "map_error_uniform": Metric(unit="", meaning="map_error of a uniform map, the baseline"),
    "landmark_cosine": Metric(
        unit="", meaning="mean off-diagonal |cosine| of a head's landmarks (of a low-rank mechanism)"
    ),
    "middle_diagonal": Metric(
        unit="", meaning="mean diagonal of softmax between landmark queries and keys; uniform: 1 / landmarks"
    ),
    "proxy_moved": Metric(
        unit="", meaning="distance of the proxies from their initial values, relative to the norm of those"
    ),
    "contrastive_gradient_ratio": Metric(
        unit="",
        meaning="norm of the weighted contrastive gradient on the proxies over that of the classification loss",
    ),
    "weight_update": Metric(
        unit="",
        meaning="root mean square of Adam's last step over its learning rate, for all weights but the proxies",
    ),
    "proxy_update": Metric(
        unit="", meaning="weight_update of the proxies; near 0 where Adam's eps dominates"
    ),
    "proxy_rank": Metric(unit="", meaning="effective rank of the proxies", better="maximize"),
    "proxy_cosine": Metric(unit="", meaning="mean off-diagonal |cosine| of the proxies"),
    "seconds": Metric(unit="s", meaning="training and evaluation time of the trial so far"),
    "tokens_per_second": Metric(
        unit="tokens/s",
        meaning="valid tokens trained on per second while other trials share the machine",
        better="maximize",
    ),
    MEMORY: Metric(unit="MiB", meaning="predicted peak of a training step over its batch", known="predicted"),
    "flops_per_sequence": Metric(unit="FLOP", meaning="forward pass of one sequence", known="predicted"),
    "parameters": Metric(unit="", meaning="trainable parameters of the model", known="predicted"),
    "train_sequences_per_second": Metric(
        unit="sequences/s",
        meaning="optimizer steps on real batches, alone on the machine",
        known="measured",
        better="maximize",
    ),
    "inference_sequences_per_second": Metric(
        unit="sequences/s",
        meaning="forward passes on real batches, alone on the machine",
        known="measured",
        better="maximize",
    ),
}


def bounds_of(name: str) -> tuple[float, float]:
    """Lowest and highest possible value of a metric; infinite unless it is an accuracy."""
    return (0.0, 1.0) if name in ("val_accuracy", "best_val_accuracy") else (-math.inf, math.inf)


def any_known(how: str, names: Iterable[str]) -> bool:
    """Whether any of these metrics is obtained in this way (`Metric.known`)."""
    return any(METRICS[name].known == how for name in names)
