"""Write docs/RESULTS.md from finished studies: `python tests/benchmarks results STUDY... --storage DIR`, or `make results`."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from scipy import stats

from proxytune.tuning.compare.published import PUBLISHED, TASKS
from proxytune.tuning.store.attributes import END, SECONDS
from proxytune.tuning.store.study import Study

SEED = "training.seed"
SHOWN = {
    "val_accuracy": "val. accuracy (last)",
    "best_val_accuracy": "best val. accuracy",
    "map_error": "map error",
    "map_error_uniform": "of a uniform map",
    "middle_diagonal": "middle diagonal",
    "landmark_cosine": "landmark cosine",
    "proxy_moved": "proxies moved",
    "contrastive_gradient_ratio": "contrast / classification gradient",
    "weight_update": "step of the weights / rate",
    "proxy_update": "step of the proxies / rate",
}
TO_FIRST = {"val_accuracy": "val. accuracy less the first's", "map_error": "map error less the first's"}
MOVED = ("val_accuracy", "map_error", "middle_diagonal", "landmark_cosine")


@dataclass(frozen=True)
class Arm:
    """One configuration without its seed."""

    params: dict[str, Any]
    metrics: dict[int, dict[str, float]]  # by seed, of the last report

    def values(self, name: str) -> dict[int, float]:
        """The metric by seed, for the seeds that reported it."""
        return {seed: metrics[name] for seed, metrics in self.metrics.items() if name in metrics}


def page(sections: Sequence[str]) -> str:
    """The page as Markdown."""
    head = (
        "# Results\n\nMade from the studies named by `make results`; nothing here is written by hand. Means over seeds, with "
        "95 % intervals (Student's t; for a search those of `confirm`); differences are paired by seed. **Bold**: the interval excludes 0. Map error, middle "
        "diagonal and the other diagnostics are defined in `models/diagnostics.py`; of all layers, at the last evaluation."
    )
    return "\n\n".join([head, *sections]) + "\n"


def arms_of(study: Study) -> list[Arm]:
    """The configurations with complete trials, in the order of their first trial."""
    arms: list[Arm] = []
    for trial in study.trials():
        if trial.state.name != "COMPLETE":
            continue
        params = dict(trial.params)
        seed = params.pop(SEED, study.spec.seed)
        arm = next((arm for arm in arms if arm.params == params), None)
        if arm is None:
            arm = Arm(params, {})
            arms.append(arm)
        arm.metrics[seed] = trial.user_attrs[END]["metrics"]
    return arms


def section(study: Study) -> str:
    """The section of a study with a fixed list of configurations and seeds."""
    arms = arms_of(study)
    if not arms:
        return f"## {study.name}\n\nNo trial is complete."
    first = arms[0]
    fixed = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in first.params.items())
    parts = [
        f"## {study.name}",
        _facts(study, arms),
        f"The first row: {fixed}. Other rows name what differs.",
    ]
    parts.append(table(("configuration", "seeds", *SHOWN.values(), *TO_FIRST.values()), _means(arms)))
    moves = list(_moves(arms))
    if moves:
        parts.append("What changing one key does, over the seeds that both have:")
        parts.append(table(("key", "elsewhere", "seeds", *(SHOWN[name] for name in MOVED)), moves))
    if study.spec.task.name in TASKS:
        parts.append(_published(study.spec.task.name))
    return "\n\n".join(parts)


def _facts(study: Study, arms: Sequence[Arm]) -> str:
    trials = study.trials()
    ended = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    complete = sum(len(arm.metrics) for arm in arms)
    seconds = sum(metrics["seconds"] for arm in arms for metrics in arm.metrics.values())
    spec = study.spec
    facts = driver_facts(study)
    hardware, versions = facts.get("hardware", {}), facts.get("versions", {})
    return (
        f"{max(ended):%Y-%m-%d}; task {spec.task.name} {spec.task.options or ''}, {spec.training['steps']:,} steps of "
        f"{spec.training['batch_size']} at {spec.training['learning_rate']:g}, {spec.training['batch_order']} batches, evaluated "
        f"every {spec.training['eval_every']} steps. {complete} of {spec.search.trials} trainings are complete, "
        f"{len(trials) - complete} are not (unfinished or never started). {seconds / 60:.0f} min of training and evaluation, "
        f"{study.optuna.user_attrs.get(SECONDS, 0) / 60:.0f} min of running. "
        f"{hardware.get('machine', '?')}, {hardware.get('cpus', '?')} cores, {spec.resources.cpu} a training; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; revision {str(facts.get('git_revision'))[:12]}."
    )


def driver_facts(study: Study) -> dict[str, Any]:
    """The facts of the first driver, from the study's journal."""
    journal = study.folder / "outbox" / "events.jsonl"
    if not journal.exists():
        return {}
    with journal.open(encoding="utf-8") as lines:
        events = (json.loads(line) for line in lines)
        return next((event.get("facts", {}) for event in events if event.get("kind") == "study"), {})


def _means(arms: Sequence[Arm]) -> Iterator[tuple[str, ...]]:
    for arm in arms:
        columns = [_mean(list(arm.values(name).values())) for name in SHOWN]
        to_first = [_difference(arms[0].values(name), arm.values(name)) for name in TO_FIRST]
        label = _label(arm.params, arms[0].params)
        yield (
            label or "(first)",
            str(len(arm.metrics)),
            *columns,
            *(to_first if label else "-" * len(TO_FIRST)),
        )


def _moves(arms: Sequence[Arm]) -> Iterator[tuple[str, ...]]:
    """A row per pair of configurations that differ in one key and share at least two seeds."""
    for one, other in combinations(arms, 2):
        shared = sorted(one.metrics.keys() & other.metrics.keys())
        keys = [key for key in {**one.params, **other.params} if one.params.get(key) != other.params.get(key)]
        if len(keys) != 1 or len(shared) < 2:
            continue
        rest = _label(
            {key: value for key, value in one.params.items() if key != keys[0]},
            {key: value for key, value in arms[0].params.items() if key != keys[0]},
        )
        change = f"{keys[0].partition('.')[2]} {one.params.get(keys[0])} to {other.params.get(keys[0])}"
        yield (
            change,
            rest,
            str(len(shared)),
            *(_difference(one.values(name), other.values(name)) for name in MOVED),
        )


def _label(params: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """The parameters that differ from those of the first row."""
    return ", ".join(
        f"{key.partition('.')[2]} {params.get(key, '-')}"
        for key in {**first, **params}
        if params.get(key) != first.get(key)
    )


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.fmean(values):.3f}" + (f" ± {_half_width(values):.3f}" if len(values) > 1 else "")


def _difference(one: Mapping[int, float], other: Mapping[int, float]) -> str:
    differences = [other[seed] - one[seed] for seed in sorted(one.keys() & other.keys())]
    if len(differences) < 2:
        return "-"
    mean, half = statistics.fmean(differences), _half_width(differences)
    text = f"{mean:+.3f} ± {half:.3f}"
    return f"**{text}**" if abs(mean) > half else text


def _half_width(values: Sequence[float]) -> float:
    """Half width of Student's 95 % interval of the mean."""
    error = statistics.stdev(values) / len(values) ** 0.5
    return float(stats.t.isf(0.025, len(values) - 1)) * error


def _published(task: str) -> str:
    rows = [
        (method, f"{values[TASKS.index(task)]:.2f}", table.source, table.protocol)
        for table in PUBLISHED
        for method, values in table.rows.items()
        if method.lower() in ("softmax", "nyströmformer")
    ]
    return "Published test accuracies in percent, for scale only:\n\n" + table(
        ("method", "accuracy", "source", "protocol"), rows
    )


def table(head: Sequence[str], rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
