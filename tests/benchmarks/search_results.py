"""The section of docs/RESULTS.md for a finished search: best trials, confirmation, test split, Pareto front, cost."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from proxytune.tuning.confirm.racing import interval
from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.spec.ranking import front, front_objectives
from proxytune.tuning.store.confirmation import Candidate, Confirmation, read_confirmation
from proxytune.tuning.store.records import TrialRecord, study_records
from proxytune.tuning.store.study import Study, open_study
from tests.benchmarks.results import machine, table

ENQUEUED = "enqueued"


def is_search(study: Study) -> bool:
    """Whether a sampler proposed configurations; otherwise the study file lists all of them."""
    return study.spec.search.sampler.name != "grid"


def search_section(study: Study) -> str:
    """The section of one search as Markdown."""
    records = study_records(study)
    if not any(record.eligible for record in records):
        return f"## {study.name}\n\nThe study has no complete trials."
    confirmation = read_confirmation(study)
    parts = [f"## {study.name}", _facts(study, records, confirmation)]
    parts.append(
        table(("trial", "configuration", "in the search", "on fresh seeds", "seeds", "MiB per sequence", "train sequences/s"),
              list(_rows(study, records, confirmation)))
    )  # fmt: skip
    if confirmation is not None:
        parts.append(_confirmed(confirmation) + _against_enqueued(study, confirmation))
    parts.append("Pareto front of " + _front(study, records))
    parts.append("Best value so far, by trial: " + _best_so_far(study, records) + ".")
    return "\n\n".join(parts)


def _facts(study: Study, records: Sequence[TrialRecord], confirmation: Confirmation | None) -> str:
    spec = study.spec
    outcomes = ", ".join(
        f"{number} {outcome}" for outcome, number in Counter(record.outcome for record in records).items()
    )
    full = int(spec.training["steps"])
    steps = sum(record.step for record in records)
    hours = _core_hours(study, records)
    cost = f"Search: {steps:,} steps ({steps / full:.1f} full trainings), {hours:.2f} core-hours of training and evaluation"
    if confirmation is not None:
        retrained = open_study(f"{study.name}.confirm", spec.storage, spec.database)
        hours = _core_hours(retrained, study_records(retrained))
        cost += f"; confirmation: {confirmation.retrainings} trainings, {hours:.2f} core-hours"
    return (
        f"{max(record.ended or '' for record in records)[:10]}; task {spec.task.name} {spec.task.options or ''}, "
        f"{spec.model['attention']}, {full:,} steps of {spec.training['batch_size']}; sampler "
        f"{spec.search.sampler.name}, stopping rule {spec.search.stopping.name}. {len(records)} trials: {outcomes}. {cost}. "
        + machine(study)
    )


def _core_hours(study: Study, records: Sequence[TrialRecord]) -> float:
    seconds = sum(record.metrics.get("seconds", 0.0) for record in records)
    return seconds * study.spec.resources.cpu / 3600


def _rows(
    study: Study, records: Sequence[TrialRecord], confirmation: Confirmation | None
) -> Iterator[tuple[str, ...]]:
    """The enqueued configurations, the best of the search, and every confirmed candidate."""
    objective = next(iter(study.spec.search.objectives))
    candidates = {each.trial: each for each in confirmation.candidates} if confirmation else {}
    best = _ordered(study, records)[0].trial
    shown = [*range(len(study.spec.search.enqueue)), best, *candidates]
    for number in dict.fromkeys(shown):
        record = records[number]
        remarks = [ENQUEUED] if number < len(study.spec.search.enqueue) else []
        remarks += ["best of the search"] if number == best else []
        remarks += ["confirmed winner"] if confirmation and number == confirmation.winner else []
        value = record.values.get(objective)
        yield (
            ", ".join([str(number), *remarks]),
            ", ".join(f"{key.partition('.')[2]} {_short(value)}" for key, value in record.params.items()),
            f"{record.outcome} at step {record.step}" if value is None else f"{value:.4f}",
            *_fresh(candidates.get(number)),
            f"{record.metrics[MEMORY]:.2f}" if MEMORY in record.metrics else "-",
            _speed(candidates.get(number)),
        )


def _speed(candidate: Candidate | None) -> str:
    speed = candidate and candidate.efficiency.get("train_sequences_per_second")
    return f"{speed:.1f}" if speed else "-"


def _fresh(candidate: Candidate | None) -> tuple[str, str]:
    if candidate is None or candidate.mean is None:
        return "-", "-"
    low, high = candidate.interval or (candidate.mean, candidate.mean)
    return f"{candidate.mean:.4f} [{low:.4f}, {high:.4f}]", str(len(candidate.values))


def _confirmed(confirmation: Confirmation) -> str:
    text = (
        f"Winner: trial {confirmation.winner} ({confirmation.rule}). Optimism of its search score: "
        f"{confirmation.gap:+.4f}."
    )
    if (test := confirmation.test) is not None:
        low, high = test.interval or (test.mean, test.mean)
        text += (
            f" Test split, opened {test.openings} time{'s' * (test.openings > 1)}: {test.mean:.4f} [{low:.4f}, {high:.4f}] "
            f"over {len(test.values)} seeds, {test.num_examples:,} examples."
        )
    return text


def _against_enqueued(study: Study, confirmation: Confirmation) -> str:
    """The winner against each enqueued configuration that was confirmed too."""
    winner = confirmation.best
    of_winner = dict(zip(winner.seeds, winner.values, strict=True))
    text = ""
    for other in confirmation.candidates:
        pairs = list(zip(other.seeds, other.values, strict=True))
        if other.trial == winner.trial or other.trial >= len(study.spec.search.enqueue) or not pairs:
            continue
        differences = [of_winner[seed] - value for seed, value in pairs]
        mean = sum(differences) / len(differences)
        bounds = (
            "" if len(pairs) < 2 else " [{:+.4f}, {:+.4f}]".format(*(interval(differences) or (mean, mean)))
        )
        text += (
            f" Winner minus trial {other.trial} (enqueued), paired by seed: {mean:+.4f}{bounds}, {len(pairs)} "
            f"seed{'s' * (len(pairs) > 1)}."
        )
    return text


def _front(study: Study, records: Sequence[TrialRecord]) -> str:
    objectives = front_objectives(study.spec.search.objectives)
    points = {
        record.trial: record.metrics
        for record in records
        if record.eligible and objectives.keys() <= record.metrics.keys()
    }
    rows = (
        f"trial {number} ({', '.join(_short(points[number][name]) for name in objectives)})"
        for number in front(points, objectives)
    )
    return f"{' and '.join(objectives)}: " + "; ".join(rows) + "."


def _best_so_far(study: Study, records: Sequence[TrialRecord]) -> str:
    """The trials that improved the best value, with the value."""
    objective = next(iter(study.spec.search.objectives))
    improved: list[TrialRecord] = []
    for record in sorted(records, key=lambda record: record.ended or ""):
        if record.eligible and _ordered(study, [*improved[-1:], record])[0] is record:
            improved.append(record)
    return ", ".join(f"{record.values[objective]:.4f} (trial {record.trial})" for record in improved)


def _ordered(study: Study, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The eligible records, best first by the first objective; equal values keep their order."""
    objective, direction = next(iter(study.spec.search.objectives.items()))
    factor = -1.0 if direction == "maximize" else 1.0
    eligible = [record for record in records if record.eligible]
    return sorted(eligible, key=lambda record: factor * record.values[objective])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
