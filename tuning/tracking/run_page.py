"""What MLflow's pages say about a run: names that sort, params, tags, descriptions in Markdown."""

import os
import pwd
from collections.abc import Iterable, Mapping
from typing import Any

from proxytune.tuning.journal.counters import Counters
from proxytune.tuning.journal.outbox import Event
from proxytune.tuning.report.formatting import flat, short
from proxytune.tuning.spec.metrics import METRICS

SHORT = {"num_proxies": "proxies", "contrastive_temperature": "tau", "learning_rate": "lr"}
FIXED = (  # what people sort and filter by even where it is not searched
    *("task.name", "task.max_length", "model.attention", "model.num_layers", "model.embedding_dim"),
    *("training.steps", "training.batch_size", "training.learning_rate", "training.seed"),
)
MAX_TEXT = 5000  # characters of a tag or param; MLflow cuts params at 6,000 and refuses tags over 8,000
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "interrupted": "KILLED"}  # every other outcome: FAILED
STUDY_STATUS = {"finished": "FINISHED", "interrupted": "KILLED"}


def run_name(number: int, params: Mapping[str, Any]) -> str:
    """`0042 proxies=128 tau=0.070 dropout=0.10`: in the order of the trials, then what was searched."""
    words = [f"{number:04d}"]
    for key, value in params.items():
        name = key.rpartition(".")[2]
        words.append(f"{SHORT.get(name, name)}={short(value)}")
    return " ".join(words)[:250]


def trial_params(event: Event) -> dict[str, str]:
    """A trial's searched params, and the fixed ones that people sort by."""
    config = flat(event.get("config", {}), depth=2)
    chosen = {key: config[key] for key in FIXED if config.get(key) is not None} | event["params"]
    return {key: str(value)[:MAX_TEXT] for key, value in chosen.items()}


def study_params(spec: Mapping[str, Any]) -> dict[str, str]:
    """What distinguishes one study from another in MLflow's table."""
    values = flat(spec, depth=3)
    keys = ("search.sampler.name", "search.sampler.seed", "search.stopping.name", "search.trials")
    return {key: str(values[key])[:MAX_TEXT] for key in (*FIXED, *keys) if values.get(key) is not None}


def source_tags() -> dict[str, str]:
    """Who made the run, for MLflow's own columns."""
    user = pwd.getpwuid(os.getuid()).pw_name
    return {"mlflow.source.name": "proxytune", "mlflow.source.type": "LOCAL", "mlflow.user": user}


def start_tags(event: Event) -> dict[str, str]:
    """Tags of a trial that starts or goes on."""
    return {"outcome": "running", "attempt": str(event.get("attempt", 1))} | worker_tags(event)


def worker_tags(event: Event) -> dict[str, str]:
    """Where a trial runs, as far as the event says."""
    return {key: str(event[key]) for key in ("node", "device") if key in event}


def end_tags(event: Event, counters: Counters) -> dict[str, str]:
    """Tags of a trial that ended; `rung` counts the rungs that it reached."""
    reason = str(event.get("reason") or f"{event['outcome']} at step {event['step']}")[:MAX_TEXT]
    return {"outcome": event["outcome"], "reason": reason, "rung": str(counters.rung(event["step"]))}


def trial_note(study: str, event: Event) -> str:
    """The description of a trial's run."""
    searched = table(("searched", "value"), [(key, repr(value)) for key, value in event["params"].items()])
    return (
        f"Trial {event['trial']} of study **{study}**.\n\n{searched}\n\n"
        "The complete configuration is the artifact `config.json`. The tag `outcome` says how the trial ended, "
        "`reason` why, `rung` how many rungs of successive halving it reached; a run that is KILLED with outcome "
        "`pruned` was stopped at a rung on purpose.\n\n" + metrics_note()
    )


def metrics_note() -> str:
    """Units and meanings of the metrics."""
    rows = [(f"`{name}`", metric.unit or "-", metric.meaning) for name, metric in METRICS.items()]
    return table(("metric", "unit", "meaning"), rows)


def study_note(
    study: str, spec: Mapping[str, Any], facts: Mapping[str, Any], counters: Counters, status: str
) -> str:
    """The description of a study's parent run, with its standing."""
    search = spec.get("search", {})
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
        ("trials ended", f"{counters.num_ended} of {search.get('trials', '?')}: {outcomes}"),
        ("steps trained", f"{counters.steps:,}"),
        (
            "time in trials",
            f"{counters.cpu_seconds / 3600:.2f} CPU-hours, {counters.gpu_seconds / 3600:.2f} GPU-hours",
        ),
    ]
    known = [
        (key, f"`{value}`") for key, value in flat(facts, depth=3).items() if value not in (None, "", [])
    ]
    task = spec.get("task", {}).get("name", "?")
    return "\n\n".join(
        [
            f"Study **{study}**: hyperparameter search on `{task}`. Its trials are the runs below this one.",
            table(("", ""), standing),
            "Artifacts: `report.html` (pictures), `spec.json` (the resolved study file), `events.log`, "
            "`facts.json`.",
            table(("fact", "value"), known) if known else "",
        ]
    )[: MAX_TEXT + 2000]


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def event_line(event: Event, time: str) -> str:
    """One line of the event log that people read."""
    match event["kind"]:
        case "study":
            return f"{time} study {event['study']}: a driver starts"
        case "trial":
            params = " ".join(f"{key}={short(value)}" for key, value in event["params"].items())
            return f"{time} trial {event['trial']:04d} starts, attempt {event.get('attempt', 1)}: {params}"
        case "end":
            reason = f": {event['reason']}" if event.get("reason") else ""
            return (
                f"{time} trial {event['trial']:04d} ends at step {event['step']}, {event['outcome']}{reason}"
            )
        case "log":
            return f"{time} {event.get('who', '')}: {event['text']}"
        case "study_end":
            reason = f": {event['reason']}" if event.get("reason") else ""
            return f"{time} the driver ends, {event['status']}{reason}"
        case _:
            return ""
