"""Content of a run's page in MLflow: sortable name, params, tags, description in Markdown."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from proxytune.tuning.journal.counters import Counters
from proxytune.tuning.journal.events import (
    BudgetChanged,
    Confirmed,
    Event,
    Noted,
    Paused,
    Reported,
    Resumed,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialStarted,
)
from proxytune.tuning.report.formatting import flat, short
from proxytune.tuning.spec.metrics import METRICS
from proxytune.tuning.spec.outcome import Outcome, StudyStatus
from proxytune.tuning.store.steering import user_name

FIXED = (  # params for sorting and filtering, logged even if they are not searched
    *("task.name", "task.max_length", "model.attention", "model.num_layers", "model.embedding_dim"),
    *("training.steps", "training.batch_size", "training.learning_rate", "training.seed"),
)
MAX_TEXT = 5000  # characters of a tag or param; MLflow truncates params at 6,000 and refuses tags over 8,000


def run_name(number: int, outcome: Outcome | None = None) -> str:
    """A run's name, such as `0042 complete`. It is short and sorts by trial number."""
    return f"{number:04d} {outcome}" if outcome else f"{number:04d}"


def trial_params(event: TrialStarted) -> dict[str, str]:
    """A trial's searched params and those in FIXED."""
    config = flat(event.config or {}, depth=2)
    chosen = {key: config[key] for key in FIXED if config.get(key) is not None} | event.params
    return {key: str(value)[:MAX_TEXT] for key, value in chosen.items()}


def study_params(spec: Mapping[str, Any]) -> dict[str, str]:
    """The params of a study's run, by which MLflow's table distinguishes studies."""
    values = flat(spec, depth=3)
    keys = ("search.sampler.name", "search.sampler.seed", "search.stopping.name", "search.trials")
    return {key: str(values[key])[:MAX_TEXT] for key in (*FIXED, *keys) if values.get(key) is not None}


def source_tags() -> dict[str, str]:
    """Source and user of a run, for MLflow's own columns."""
    return {"mlflow.source.name": "proxytune", "mlflow.source.type": "LOCAL", "mlflow.user": user_name()}


def start_tags(event: TrialStarted) -> dict[str, str]:
    """Tags of a trial that starts or resumes."""
    return {"outcome": Outcome.RUNNING, "attempt": str(event.attempt)}


def worker_tags(event: Reported) -> dict[str, str]:
    """Node and device of a trial, if the event contains them."""
    places = {"node": event.node, "device": event.device}
    return {key: place for key, place in places.items() if place}


def end_tags(event: TrialEnded, counters: Counters) -> dict[str, str]:
    """Tags of a trial that ended; `rung` is the number of rungs that it reached."""
    reason = (event.reason or f"{event.outcome} at step {event.step}")[:MAX_TEXT]
    return {"outcome": event.outcome, "reason": reason, "rung": str(counters.rung(event.step))}


def trial_note(study: str, event: TrialStarted) -> str:
    """The description of a trial's run."""
    searched = table(("searched", "value"), [(key, repr(value)) for key, value in event.params.items()])
    return (
        f"Trial {event.trial} of study **{study}**.\n\n{searched}\n\n"
        "The complete configuration is the artifact `config.json`. The tag `outcome` gives the outcome of the trial, "
        "`reason` its reason, `rung` the number of rungs of successive halving that it reached. A pruned trial has the "
        "status FINISHED, since it was stopped at a rung intentionally.\n\n" + metrics_note()
    )


def metrics_note() -> str:
    """A table of units and meanings of the metrics."""
    rows = [(f"`{name}`", metric.unit or "-", metric.meaning) for name, metric in METRICS.items()]
    return table(("metric", "unit", "meaning"), rows)


def study_note(study: Mapping[str, Any], counters: Counters, status: StudyStatus, links: str) -> str:
    """The description of a study's run, with its current state.

    Args:
        study: name, spec, facts and, if present, confirmation, as in the acknowledgement.
        links: Markdown links to the study's views.
    """
    objectives = ", ".join(f"{goal} `{name}`" for name, goal in counters.directions.items())
    best = [
        (f"best `{name}`", f"{value:.6g} (trial {counters.best_trial[name]})")
        for name, value in counters.best.items()
    ]
    outcomes = (
        ", ".join(f"{count} {outcome}" for outcome, count in sorted(counters.outcomes.items())) or "none yet"
    )
    standing = [
        ("status", status),
        ("objectives", objectives),
        *best,
        ("trials ended", f"{counters.num_ended} of {counters.budget or '?'}: {outcomes}"),
        ("steps trained", f"{counters.steps:,}"),
        (
            "time in trials",
            f"{counters.cpu_seconds / 3600:.2f} CPU-hours, {counters.gpu_seconds / 3600:.2f} GPU-hours",
        ),
    ]
    facts = flat(study["facts"], depth=3)
    known = [(key, f"`{value}`") for key, value in facts.items() if value not in (None, "", [])]
    task = study["spec"].get("task", {}).get("name", "?")
    parts = [
        f"Study **{study['name']}**: hyperparameter search on `{task}`. Its trials are the child runs of this run.",
        links,
        table(("", ""), standing),
        confirmation_note(Confirmed.model_validate(study["confirmation"])) if "confirmation" in study else "",
        "Artifacts: `report.html` (plots), `spec.json` (the resolved study file), `events.log`, `facts.json`.",
        table(("fact", "value"), known) if known else "",
    ]
    return "\n\n".join(filter(None, parts))[: MAX_TEXT + 2000]


def confirmation_note(event: Confirmed) -> str:
    """A table of all candidates of a confirmation with seeds, mean and interval."""
    rows = [
        (
            f"**{one.trial}**" if one.trial == event.winner else str(one.trial),
            f"{one.mean:.4g}",
            f"{one.low:.4g} to {one.high:.4g}" if one.low is not None and one.high is not None else "-",
            ", ".join(f"{seed}: {value:.4g}" for seed, value in one.seeds.items()),
        )
        for one in event.candidates
    ]
    head = ("trial", f"mean `{event.objective}`", "95 % interval", "seeds")
    return f"Confirmed on fresh seeds: trial {event.winner} ({event.rule}).\n\n{table(head, rows)}"


def winner_tags(counters: Counters) -> dict[str, str]:
    """Tags of the study's run: the winner and the rule that chose it."""
    return {f"winner_{key}": str(value) for key, value in counters.winner.items()}


def confirmation_metrics(event: Confirmed) -> dict[str, float]:
    """Mean and interval of the confirmed trial, as metrics of the study's run."""
    (winner,) = (one for one in event.candidates if one.trial == event.winner)
    values = {"mean": winner.mean, "low": winner.low, "high": winner.high, "seeds": float(len(winner.seeds))}
    return {f"confirmed_{event.objective}_{key}": value for key, value in values.items() if value is not None}


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def event_line(event: Event) -> str:
    """One line of the readable event log; empty for events that it does not contain."""
    match event:
        case StudyStarted():
            text = f"study {event.study}: a driver starts"
        case TrialStarted():
            params = " ".join(f"{key}={short(value)}" for key, value in event.params.items())
            text = f"trial {event.trial:04d} starts, attempt {event.attempt}: {params}"
        case TrialEnded():
            text = (
                f"trial {event.trial:04d} ends at step {event.step}, {event.outcome}{_because(event.reason)}"
            )
        case Noted():
            text = f"{event.who}: {event.text}"
        case Paused():
            text = f"{event.who}: pause"
        case Resumed():
            text = f"{event.who}: resume"
        case BudgetChanged():
            text = f"{event.who}: budget set to {event.trials} trials"
        case Confirmed():
            text = f"confirmed: trial {event.winner}, {event.rule}"
        case StudyEnded():
            text = f"the driver ends, {event.status}{_because(event.reason)}"
        case _:
            return ""
    return f"{datetime.fromtimestamp(event.time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z {text}"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
