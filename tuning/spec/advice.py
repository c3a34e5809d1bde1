"""Warnings about settings of a study that are valid but probably unintended."""

from collections.abc import Iterator

from proxytune.tuning.spec.metrics import METRICS
from proxytune.tuning.spec.study_spec import StudySpec

NEAR_LENGTH = 4
"""The sequence length should be at least this multiple of the number of proxies."""


def advice(spec: StudySpec) -> Iterator[str]:
    """One line per warning, beginning with the key."""
    for metric, direction in spec.search.objectives.items():
        if METRICS[metric].better != direction:
            yield (
                f"search.objectives.{metric}: set to {direction}, although "
                f"{'higher' if METRICS[metric].better == 'maximize' else 'lower'} values are better; "
                f"set it to {METRICS[metric].better} unless this is intended"
            )
    attention = spec.search.space.get("model.attention")
    mechanisms = attention.corners() if attention else (spec.model["attention"],)
    domain = spec.search.space.get("model.num_proxies")
    most = max(
        domain.corners() if domain else (spec.model["num_proxies"],), key=lambda value: float(value or 0)
    )
    length = spec.task.info().max_length
    if "proxyformer" in mechanisms and float(most or 0) * NEAR_LENGTH > length:
        where = "search.space.model.num_proxies" if domain else "model.num_proxies"
        yield (
            f"{where}: {most} proxies for sequences of {length} tokens save little over softmax attention; "
            f"use at most {length // NEAR_LENGTH}"
        )
