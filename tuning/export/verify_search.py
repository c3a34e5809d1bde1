"""Checks that sweep.json is consistent, that its rule chooses the exported trial, and that the folder matches the trial."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from proxytune.tuning.confirm.racing import clearly_worse, interval
from proxytune.tuning.errors import InputError
from proxytune.tuning.export.choose import RULES, Selection, choose
from proxytune.tuning.export.differences import compared
from proxytune.tuning.export.export import CONFIG, METRICS_FILE, PROVENANCE, SWEEP
from proxytune.tuning.export.request import ExportRequest
from proxytune.tuning.spec import ranking
from proxytune.tuning.spec.constraints import excesses
from proxytune.tuning.spec.metrics import bounds_of
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.spec.trial_spec import load_trial
from proxytune.tuning.store.confirmation import Candidate, Confirmation
from proxytune.tuning.store.records import TrialRecord, strict_json


def check_search(folder: Path) -> Iterator[str]:
    """Check that the sweep card is consistent, chooses this trial, and matches the folder."""
    provenance = read_json(folder / PROVENANCE)
    if not (folder / SWEEP).exists():
        if "trial" in provenance:
            yield f"{SWEEP} is missing"
        return
    sweep = read_json(folder / SWEEP)
    spec = parse_study(sweep["spec"], f"{SWEEP}: spec")
    records = [TrialRecord.from_json(row) for row in sweep["trials"]]
    yield from _records(spec, records)
    yield from _accounts(sweep, spec, records)
    yield from _choice(sweep, spec, records)
    chosen = sweep["selection"]["trial"]
    record = records[chosen]
    wanted = {
        "study": sweep["study"],
        "trial": chosen,
        "trial_key": f"{sweep['study']}/{chosen}",
        "params": record.params,
        "selected_by": sweep["selection"]["text"],
        "sampler": sweep["spec"]["search"]["sampler"],
        "trials_in_study": len(records),
        "test_openings": sweep["test_openings"],
        "data": sweep["data"],
    }
    yield from compared(PROVENANCE, {name: provenance.get(name) for name in wanted}, wanted, SWEEP)
    config = load_trial(folder / CONFIG).model_dump(mode="json")
    yield from compared(
        CONFIG, config, spec.trial(record.params).model_dump(mode="json"), f"{SWEEP}, trial {chosen},"
    )
    metrics = read_json(folder / METRICS_FILE)
    yield from compared(METRICS_FILE, metrics, record.to_json()["metrics"], f"{SWEEP}, trial {chosen},")


def _records(spec: StudySpec, records: Sequence[TrialRecord]) -> Iterator[str]:
    """Check that every trial's values follow from its metrics."""
    for position, record in enumerate(records):
        name = f"trials[{position}]"
        if record.trial != position:
            yield f"{SWEEP}: {name}.trial is {record.trial}"
        complete = record.outcome == Outcome.COMPLETE
        values = {metric: record.metrics[metric] for metric in spec.search.objectives} if complete else {}
        yield from compared(
            SWEEP, strict_json(record.values), strict_json(values), "its metrics", f"{name}.values"
        )
        broken = strict_json(excesses(spec.constraints, record.metrics))
        yield from compared(
            SWEEP, strict_json(record.violations), broken, "its metrics", f"{name}.violations"
        )
        if complete and record.step != spec.training["steps"]:
            yield f"{SWEEP}: {name}.step is {record.step}, a complete trial has {spec.training['steps']}"


def _accounts(sweep: Mapping[str, Any], spec: StudySpec, records: Sequence[TrialRecord]) -> Iterator[str]:
    """Check that seeds and budgets agree with the spec and the trials."""
    search = spec.search
    confirmation = sweep["confirmation"]
    seeds = {
        "sampler": search.sampler.seed,
        "training": spec.seed,
        "confirmation": confirmation["seeds"] if confirmation else [],
    }
    yield from compared(SWEEP, sweep["seeds"], seeds, "its spec", "seeds")
    budget = {
        "steps_per_trial": spec.training["steps"],
        "max_steps": search.max_steps,
        "max_seconds": search.max_seconds,
        "spent_trials": len(records),
        "spent_steps": sum(record.step for record in records),
    }
    yield from compared(SWEEP, {name: sweep["budget"][name] for name in budget}, budget, "the rest", "budget")
    if sweep["study"] != spec.name:
        yield f"{SWEEP}: study is {sweep['study']!r}, its spec has {spec.name!r}"


def _choice(sweep: Mapping[str, Any], spec: StudySpec, records: Sequence[TrialRecord]) -> Iterator[str]:
    """Check that the recorded rule chooses the recorded trial."""
    stated, own = sweep["selection"], spec.search.objectives
    rule, number, limits = stated["rule"], stated["trial"], stated["limits"]
    if rule not in RULES:
        yield f"{SWEEP}: selection.rule {rule!r} must be one of {', '.join(RULES)}"
        return
    objectives = ranking.front_objectives(own) if rule == "pareto" else dict(own)
    yield from compared(SWEEP, stated["objectives"], objectives, "its spec", "selection.objectives")
    rules = dict(spec.search.constraints)
    yield from compared(SWEEP, stated["constraints"], rules, "its spec", "selection.constraints")
    confirmation = Confirmation.from_json(sweep["confirmation"]) if rule == "confirmed" else None
    if confirmation is not None:
        yield from _confirmed(confirmation)
    named = number if rule == "trial" else None
    request = ExportRequest(trial=named, pareto=rule == "pareto", **limits)
    try:
        again = choose(spec.name, records, own, spec.constraints, request, confirmation)
    except InputError as error:
        yield f"{SWEEP}: selection.trial is {number!r}, but {error}"
        return
    wanted = [selection for selection in again if selection.trial == number and type(number) is int]
    if not wanted:
        yield f"{SWEEP}: selection.trial is {number!r}, the rule gives {' or '.join(str(selection.trial) for selection in again)}"
    text = Selection(
        trial=0, rule=rule, objectives=objectives, limits=limits, confirmed=again[0].confirmed
    ).text
    if stated["text"] != text:
        yield f"{SWEEP}: selection.text is not the text of rule {rule}"


def _confirmed(confirmation: Confirmation) -> Iterator[str]:
    """Check that the confirmation's means, intervals and winner follow from its values."""
    direction = -ranking.sign(confirmation.direction)
    for position, candidate in enumerate(confirmation.candidates):
        name = f"confirmation.candidates[{position}]"
        if candidate.values and not np.isclose(
            candidate.mean or 0.0, float(np.mean(candidate.values)), rtol=1e-12
        ):
            yield f"{SWEEP}: {name}.mean is {candidate.mean}, its values give {np.mean(candidate.values)}"
        bounds = interval(candidate.values, bounds_of(confirmation.objective))
        if (candidate.interval is None) != (bounds is None) or not np.allclose(
            candidate.interval or (), bounds or ()
        ):
            yield f"{SWEEP}: {name}.interval is {candidate.interval}, its values give {bounds}"
    left = [candidate for candidate in confirmation.candidates if candidate.eliminated_after is None]
    if len({len(candidate.values) for candidate in left}) == 1:
        table = direction * np.array([candidate.values for candidate in left]).T[:, :, None]
        tied = [candidate for candidate, worse in zip(left, clearly_worse(table), strict=True) if not worse]
        if {candidate.trial for candidate in tied} != set(confirmation.tied):
            given = [candidate.trial for candidate in tied]
            yield f"{SWEEP}: confirmation.tied is {list(confirmation.tied)}, the values give {given}"
    else:
        tied = [candidate for candidate in confirmation.candidates if candidate.trial in confirmation.tied]

    def order(candidate: Candidate) -> tuple[float, ...]:
        return (*candidate.cost, -direction * (candidate.mean or 0.0))

    cheapest = min(tied, key=order).trial
    if confirmation.winner != cheapest:
        yield f"{SWEEP}: confirmation.winner is {confirmation.winner}, the rule gives {cheapest}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: the file does not contain JSON; the message names it.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
