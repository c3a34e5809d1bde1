"""Stored specs of proxytune 0.1: keys added since, with the values that reproduce its behaviour."""

from collections.abc import Mapping
from typing import Any

from proxytune.tuning.errors import InputError

NEW_MODEL_KEYS = {"attention_precision": "autocast", "proxy_init_std": 1.0}
NEW_TRAINING_KEYS = {"batch_order": "bucketed", "final_weights": "last"}
OLD_MODEL_KEYS = {"contrastive", "decomposed_dropout", "own_proxy_projections", "num_random_blocks"}
"""Keys that 0.1 wrote into every stored spec and that are rare in files written by hand."""
CHANGED_MECHANISMS = ("performer", "reformer", "bigbird")


def completed(values: Mapping[str, Any], where: str | None) -> dict[str, Any]:
    """The spec with 0.1's values for the keys that 0.1 did not have; any other spec unchanged.

    No key reproduces 0.1's Adam eps of the proxies (1e-6) or its Performer, Reformer and BigBird.

    Raises:
        InputError: a spec of 0.1 with one of those mechanisms, or with a search over mechanisms. The message begins
            with `where`.
    """
    model, training = values.get("model"), values.get("training")
    if not isinstance(model, Mapping) or not isinstance(training, Mapping):
        return dict(values)
    if not model.keys() >= OLD_MODEL_KEYS or NEW_MODEL_KEYS.keys() & model.keys():
        return dict(values)
    attention = model.get("attention")
    search = values.get("search")
    searched = isinstance(search, Mapping) and "model.attention" in search.get("space", {})
    if searched or attention in CHANGED_MECHANISMS:
        raise InputError(
            f"{where or 'the spec'}: created by proxytune 0.1, whose implementations of "
            f"{', '.join(CHANGED_MECHANISMS)} differ; read it with proxytune 0.1, or train again"
        )
    model = dict(model) | NEW_MODEL_KEYS
    training = dict(training) | NEW_TRAINING_KEYS
    if attention == "proxyformer":
        training["proxy_learning_rate_multiple"] = 1.0
        if model.get("injection") == "segment":
            model["injection_length"] = "padded"
    return dict(values) | {"model": model, "training": training}
