"""card.md: description, accuracy with uncertainty, cost and limits of an exported model."""

from collections.abc import Iterator, Mapping
from typing import Any

from proxytune.models.config import ModelConfig
from proxytune.tuning.export.request import THROUGHPUT
from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.spec.trial_spec import TrialSpec


def card(
    spec: TrialSpec,
    config: ModelConfig,
    metrics: Mapping[str, float],
    provenance: Mapping[str, Any],
    sweep: Mapping[str, Any] | None,
) -> str:
    """The card of an exported model as Markdown.

    Args:
        spec: the trained configuration.
        config: its model configuration.
        metrics: metrics of its last report.
        provenance: the content of provenance.json.
        sweep: its sweep card; None for a model trained outside of a search.
    """
    candidate = _candidate(provenance, sweep)
    sections = {
        "What it is": _what(spec, config, provenance),
        "Accuracy": _how_well(spec, metrics, provenance, sweep, candidate),
        "Cost": _cost(metrics, sweep, provenance, candidate),
        "Programs": _programs(provenance),
        "Test split": _openings(provenance),
        "Limits": _limits(config, provenance, sweep, candidate),
        "Use": _use(),
    }
    parts = [
        f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) for title, lines in sections.items()
    ]
    return f"# {_title(provenance, spec)}\n\n" + "\n\n".join(parts) + "\n"


def _title(provenance: Mapping[str, Any], spec: TrialSpec) -> str:
    if "trial" in provenance:
        return (
            f"{spec.model['attention']} on {spec.task.name}: trial {provenance['trial']} of study {spec.name}"
        )
    return f"{spec.model['attention']} on {spec.task.name}"


def _candidate(provenance: Mapping[str, Any], sweep: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The trial's entry in the confirmation, if it was a candidate."""
    candidates = ((sweep or {}).get("confirmation") or {}).get("candidates", ())
    return next(
        (candidate for candidate in candidates if candidate["trial"] == provenance.get("trial")), None
    )


def _what(spec: TrialSpec, config: ModelConfig, provenance: Mapping[str, Any]) -> Iterator[str]:
    documents = "two documents" if config.num_documents == 2 else "one document"
    yield (
        f"A classifier of {documents} of up to {config.max_length:,} tokens into {config.num_classes} classes: "
        f"{config.num_layers} layer{'s' if config.num_layers > 1 else ''} of {config.attention} attention, dimension {config.embedding_dim}, "
        f"{config.num_heads} heads."
    )
    searched = provenance.get("params")
    if searched:
        yield (
            "Searched values: "
            + ", ".join(f"{key} = {_short(value)}" for key, value in searched.items())
            + "."
        )
    training = spec.training
    yield (
        f"Trained for {training['steps']:,} steps of {training['batch_size']} examples at a peak learning rate of "
        f"{training['learning_rate']:g}, seed {spec.seed}."
    )
    data = provenance["data"]
    yield f"Data: {data['task']}, fingerprint {data['fingerprint'][:16]}; " + "; ".join(
        f"{name}: {value}" for name, value in data["conventions"].items()
    )


def _how_well(
    spec: TrialSpec,
    metrics: Mapping[str, float],
    provenance: Mapping[str, Any],
    sweep: Mapping[str, Any] | None,
    candidate: Mapping[str, Any] | None,
) -> Iterator[str]:
    if sweep is not None:
        yield f"Chosen by: {sweep['selection']['text']}."
    if candidate is not None and candidate["mean"] is not None:
        confirmation = sweep["confirmation"] if sweep else {}
        yield (
            f"**{confirmation['objective']} {candidate['mean']:.4f}{_interval(candidate['interval'])}**, the mean over "
            f"{len(candidate['values'])} fresh seeds."
        )
        curse = candidate["search_value"] - candidate["mean"]
        yield (
            f"The search had measured {candidate['search_value']:.4f} with one seed: {abs(curse):.4f} "
            f"{'more' if curse > 0 else 'less'} than the mean (the exported weights are from that training)."
        )
        if len(confirmation["tied"]) > 1 and candidate["trial"] in confirmation["tied"]:
            tied = ", ".join(map(str, confirmation["tied"]))
            yield f"Trials {tied} are tied: their means do not differ significantly."
        if candidate["eliminated_after"] is not None:
            yield f"Eliminated in the confirmation: {candidate['reason']}."
        test = confirmation.get("test")
        if test and test["trial"] == candidate["trial"]:
            yield (
                f"**Test accuracy {test['mean']:.4f}{_interval(test['interval'])}**, the mean over "
                f"{len(test['values'])} seeds on {test['num_examples']:,} examples."
            )
    else:
        trials = f", optimistic because chosen among {len(sweep['trials'])} trials" if sweep else ""
        yield f"**val_accuracy {metrics['val_accuracy']:.4f}: one seed, unconfirmed**{trials}."
    last = f"val_accuracy {metrics['val_accuracy']:.4f}, val_loss {metrics['val_loss']:.4f} nats"
    if spec.run_config().final_weights == "best":
        best = f"of step {metrics['best_step']:.0f}, val_accuracy {metrics['best_val_accuracy']:.4f}"
        yield f"These weights: the best of validation, {best}. At the last step: {last}."
    else:
        yield f"These weights: {last}."


def _cost(
    metrics: Mapping[str, float],
    sweep: Mapping[str, Any] | None,
    provenance: Mapping[str, Any],
    candidate: Mapping[str, Any] | None,
) -> Iterator[str]:
    known = {**metrics, **(candidate["efficiency"] if candidate else {})}
    yield (
        f"Parameters: {known['parameters']:,.0f}. Forward pass of one sequence: "
        f"{known['flops_per_sequence'] / 1e6:,.1f} MFLOP."
    )
    yield f"Memory of a training step: {known[MEMORY]:.2f} MiB per sequence at the task's full length."
    where = _hardware((sweep or {}).get("searched_with", {}).get("hardware") or provenance["hardware"])
    if THROUGHPUT in known:
        yield (
            f"Throughput on {where}, without other trials of the study on the machine (other load is not known): "
            f"{known[THROUGHPUT]:,.1f} sequences/s in training, {known['inference_sequences_per_second']:,.1f} "
            "sequences/s in inference."
        )
    else:
        yield (
            f"Throughput on {where}: {known['tokens_per_second']:,.0f} tokens/s in training, possibly while other "
            "trials shared the machine; it was not measured separately."
        )


def _programs(provenance: Mapping[str, Any]) -> Iterator[str]:
    for name, fact in provenance["programs"].items():
        if "missing" in fact:
            yield f"{name}: not written. {fact['missing']}"
        else:
            yield (
                f"{name}: token_ids (int64) and mask (bool) to logits; lengths {fact['length']}, any batch. Loaded in a "
                f"fresh process on {fact['checked_on'].removesuffix(' in a fresh process')}, its logits differ from "
                f"the eager model's by at most {fact['max_logit_difference']:.2g}."
            )


def _openings(provenance: Mapping[str, Any]) -> Iterator[str]:
    openings = provenance.get("test_openings", [])
    if not openings:
        yield "Never opened for this study."
    for number, opening in enumerate(openings, 1):
        yield f"Opening {number}: {opening['at']} by {opening['by']}, {opening['what']}."
    if len(openings) > 1:
        yield "**Opened more than once: figures after the first opening are no longer figures on unseen data.**"


def _limits(
    config: ModelConfig,
    provenance: Mapping[str, Any],
    sweep: Mapping[str, Any] | None,
    candidate: Mapping[str, Any] | None,
) -> Iterator[str]:
    conventions = provenance["data"]["conventions"]
    if "score" in conventions:
        yield f"{provenance['data']['task']}: {conventions['score']}."
    if sweep is not None and candidate is None:
        yield "Not confirmed on fresh seeds, so there is no interval; `proxytune confirm` computes it."
    yield f"Longer inputs are truncated to {config.max_length:,} tokens; scores are valid only for data under the conventions above."
    yield "Probabilities are the softmax of the logits; they are not calibrated."


def _use() -> Iterator[str]:
    yield "`proxytune verify .` checks this folder; `sha256sum -c SHA256SUMS` its files."
    yield "`proxytune predict . < lines`, `proxytune evaluate . --split val`, `proxytune train .`"
    yield "`proxytune.models.load_exported(folder)` returns the torch module."
    yield "Load model.pt2 and model.onnx only from a verified folder: loading an untrusted .pt2 file can run code."


def _interval(interval: Any) -> str:
    return f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""


def _hardware(facts: Mapping[str, Any]) -> str:
    return ", ".join([facts["machine"], f"{facts['cpus']} CPUs", *facts.get("gpus", [])])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
