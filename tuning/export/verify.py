"""Whether an export folder is what was written, and whether its winner is the one that its own rule chooses.

The sums find every change, fields.json names the field. Beyond that the contents are held against each other, so that a
folder whose sums were made anew after a change is found out too: every trial's record, the choice, the configuration,
the metrics, the model, and the data's fingerprint where that data is on this machine.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from proxytune.datasets import DataError, open_prepared
from proxytune.datasets.prepare import make_task
from proxytune.models.errors import ExportError
from proxytune.models.exported import (
    MODEL,
    SUMS,
    WEIGHTS,
    build_classifier,
    changed_files,
    read_model_file,
    read_sums,
)
from proxytune.tuning.confirm.confirm import CHEAPNESS
from proxytune.tuning.confirm.racing import clearly_worse, interval
from proxytune.tuning.errors import InputError
from proxytune.tuning.export.choose import (
    RULES,
    Limits,
    Selection,
    best_record,
    front,
    front_objectives,
    within,
)
from proxytune.tuning.export.digests import FIELDS, changed_fields, differing
from proxytune.tuning.export.export import CARD, CONFIG, METRICS_FILE, PROVENANCE, SWEEP
from proxytune.tuning.export.front import INDEX, PAGE
from proxytune.tuning.export.records import TrialRecord, excesses, strict_json
from proxytune.tuning.spec.metrics import bounds_of
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.spec.trial_spec import FROM_TASK, TrialSpec, load_trial
from proxytune.tuning.store.confirmation import Confirmation
from proxytune.tuning.trial.data import cache_folder

REQUIRED = (CARD, CONFIG, FIELDS, METRICS_FILE, MODEL, PROVENANCE, WEIGHTS)
_WRONG = (KeyError, TypeError, ValueError, IndexError, AttributeError, InputError, ExportError)
"""What values of a changed file may throw when they are used."""


def verify_export(folder: Path) -> list[str]:
    """A line for each thing that is not as it should be, naming the file and field; empty if all is well.

    Raises:
        InputError: no export folder at all.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if (folder / INDEX).exists():
        points = sorted(path for path in folder.iterdir() if path.is_dir())
        inner = [f"{point.name}/{line}" for point in points for line in verify_export(point)]
        return [*_files(folder, (INDEX, PAGE)), *inner]
    problems = _files(folder, REQUIRED)
    for check in (_version, _model, _winner, _data):
        problems += _guarded(check, folder)
    return list(dict.fromkeys(problems))


def _guarded(check: Callable[[Path], Iterator[str]], folder: Path) -> list[str]:
    """The lines of one check; a file that it cannot read at all is one more."""
    lines = []
    try:
        for line in check(folder):
            lines.append(line)  # noqa: PERF402  # those before an error count too
    except _WRONG as error:
        lines.append(
            f"{folder.name}: cannot be held together{check.__name__.replace('_', ' ')}: {_one_line(error)}"
        )
    except OSError as error:
        lines.append(f"{Path(error.filename or folder).name}: {error.strerror}")
    return lines


def _files(folder: Path, required: Sequence[str]) -> list[str]:
    try:
        sums = read_sums(folder)
    except ExportError as error:
        return [str(error)]
    problems = [f"{name} is not in {SUMS}" for name in required if name not in sums]
    for line in changed_files(folder):
        name = line.partition(" ")[0]
        fields = changed_fields(folder, name) if (folder / name).is_file() else []
        if fields:
            problems += [f"{name}: {field} has changed" for field in fields]
        else:
            problems.append(
                f"{line} (no field of it has, as far as {FIELDS} can tell)" if "sha256" in line else line
            )
        if name == FIELDS:
            problems += _changed_digests(folder, sums)
    on_disk = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return problems + [f"{name} is not in {SUMS}" for name in sorted(on_disk - sums.keys() - {SUMS})]


def _changed_digests(folder: Path, sums: Mapping[str, str]) -> list[str]:
    """Which entries of a changed fields.json are wrong: those of fields whose file is as it was."""
    return [
        f"{FIELDS}: the digest of {name}'s {field} has changed"
        for name in sums
        if name != FIELDS and not changed_files(folder, [name])
        for field in changed_fields(folder, name)
    ]


def _version(folder: Path) -> Iterator[str]:
    try:
        read_model_file(folder)
    except ExportError as error:
        yield str(error)


def _model(folder: Path) -> Iterator[str]:
    """The configuration, the model's fields, the weights and the metrics fit each other."""
    spec, provenance = load_trial(folder / CONFIG), _json(folder / PROVENANCE)
    mine = {key: value for key, value in _json(folder / MODEL)["model"].items() if key not in FROM_TASK}
    yield from _compared(MODEL, mine, spec.model, CONFIG, "model")
    build_classifier(folder)
    if provenance["seed"] != spec.seed:
        yield f"{PROVENANCE}: seed is {provenance['seed']}, {CONFIG} has {spec.seed}"


def _winner(folder: Path) -> Iterator[str]:
    """The sweep card is consistent, its rule chooses this trial, and the folder is this trial's."""
    provenance = _json(folder / PROVENANCE)
    if not (folder / SWEEP).exists():
        if "trial" in provenance:
            yield f"{SWEEP} is missing"
        return
    sweep = _json(folder / SWEEP)
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
    yield from _compared(PROVENANCE, {name: provenance.get(name) for name in wanted}, wanted, SWEEP)
    config = load_trial(folder / CONFIG).model_dump(mode="json")
    yield from _compared(
        CONFIG, config, spec.trial(record.params).model_dump(mode="json"), f"{SWEEP}, trial {chosen},"
    )
    metrics = _json(folder / METRICS_FILE)
    yield from _compared(METRICS_FILE, metrics, record.to_json()["metrics"], f"{SWEEP}, trial {chosen},")


def _records(spec: StudySpec, records: Sequence[TrialRecord]) -> Iterator[str]:
    """Every trial's numbers follow from its metrics."""
    for position, record in enumerate(records):
        name = f"trials[{position}]"
        if record.trial != position:
            yield f"{SWEEP}: {name}.trial is {record.trial}"
        complete = record.outcome == Outcome.COMPLETE
        values = {metric: record.metrics[metric] for metric in spec.search.objectives} if complete else {}
        yield from _compared(
            SWEEP, strict_json(record.values), strict_json(values), "its metrics", f"{name}.values"
        )
        broken = strict_json(excesses(spec, record.metrics))
        yield from _compared(
            SWEEP, strict_json(record.violations), broken, "its metrics", f"{name}.violations"
        )
        if complete and record.step != spec.training["steps"]:
            yield f"{SWEEP}: {name}.step is {record.step}, a complete trial has {spec.training['steps']}"


def _accounts(sweep: Mapping[str, Any], spec: StudySpec, records: Sequence[TrialRecord]) -> Iterator[str]:
    """Seeds and budgets agree with the spec and the trials."""
    search = spec.search
    confirmation = sweep["confirmation"]
    seeds = {
        "sampler": search.sampler.seed,
        "training": spec.seed,
        "confirmation": confirmation["seeds"] if confirmation else [],
    }
    yield from _compared(SWEEP, sweep["seeds"], seeds, "its spec", "seeds")
    budget = {
        "steps_per_trial": spec.training["steps"],
        "max_steps": search.max_steps,
        "max_seconds": search.max_seconds,
        "spent_trials": len(records),
        "spent_steps": sum(one.step for one in records),
    }
    yield from _compared(
        SWEEP, {name: sweep["budget"][name] for name in budget}, budget, "the rest", "budget"
    )
    if sweep["study"] != spec.name:
        yield f"{SWEEP}: study is {sweep['study']!r}, its spec has {spec.name!r}"


def _choice(sweep: Mapping[str, Any], spec: StudySpec, records: Sequence[TrialRecord]) -> Iterator[str]:
    """The rule, applied again, gives the trial."""
    stated, own = sweep["selection"], spec.search.objectives
    rule, chosen, limits = stated["rule"], stated["trial"], Limits(**stated["limits"])
    objectives = front_objectives(own) if rule == "pareto" else dict(own)
    if rule not in RULES:
        yield f"{SWEEP}: selection.rule {rule!r} is none of {', '.join(RULES)}"
        return
    yield from _compared(SWEEP, stated["objectives"], objectives, "its spec", "selection.objectives")
    yield from _compared(
        SWEEP, stated["constraints"], dict(spec.search.constraints), "its spec", "selection.constraints"
    )
    selection = Selection(trial=chosen, rule=rule, objectives=objectives, limits=stated["limits"])
    if stated["text"] != selection.text:
        yield f"{SWEEP}: selection.text is not the text of rule {rule}"
    if type(chosen) is not int or not 0 <= chosen < len(records):
        yield f"{SWEEP}: selection.trial is {chosen!r}, there are trials 0 to {len(records) - 1}"
    elif rule == "trial":
        if records[chosen].outcome != Outcome.COMPLETE:
            yield f"{SWEEP}: selection.trial is {chosen}, which is {records[chosen].outcome}"
    elif rule == "pareto":
        if chosen not in (points := [one.trial for one in front(records, objectives)]):
            yield f"{SWEEP}: selection.trial is {chosen}, the front is {points}"
    elif rule == "confirmed":
        yield from _confirmed(sweep, chosen)
    else:
        winner = within(records, objectives, limits) if limits else best_record(records, objectives)
        if winner is None or winner.trial != chosen:
            found = "none" if winner is None else winner.trial
            yield f"{SWEEP}: selection.trial is {chosen}, the rule gives {found}"


def _confirmed(sweep: Mapping[str, Any], chosen: int) -> Iterator[str]:
    """The confirmation's means and intervals follow from its values, and its winner from those."""
    confirmation = Confirmation.from_json(sweep["confirmation"])
    sign = 1.0 if confirmation.direction == "maximize" else -1.0
    for position, one in enumerate(confirmation.candidates):
        name = f"confirmation.candidates[{position}]"
        if one.values and not np.isclose(one.mean or 0.0, float(np.mean(one.values)), rtol=1e-12):
            yield f"{SWEEP}: {name}.mean is {one.mean}, its values give {np.mean(one.values)}"
        bounds = interval(one.values, bounds_of(confirmation.objective))
        if (one.interval is None) != (bounds is None) or not np.allclose(one.interval or (), bounds or ()):
            yield f"{SWEEP}: {name}.interval is {one.interval}, its values give {bounds}"
    left = [one for one in confirmation.candidates if one.eliminated_after is None]
    if len({len(one.values) for one in left}) == 1:
        table = sign * np.array([one.values for one in left]).T[:, :, None]
        tied = [one for one, worse in zip(left, clearly_worse(table), strict=True) if not worse]
        if {one.trial for one in tied} != set(confirmation.tied):
            yield f"{SWEEP}: confirmation.tied is {list(confirmation.tied)}, the values give {[one.trial for one in tied]}"
    else:
        tied = [one for one in confirmation.candidates if one.trial in confirmation.tied]

    def cost(one: Any) -> tuple[float, ...]:
        return (*(one.efficiency.get(name, np.inf) for name in CHEAPNESS), -sign * (one.mean or 0.0))

    cheapest = min(tied, key=cost).trial
    if confirmation.winner != cheapest:
        yield f"{SWEEP}: confirmation.winner is {confirmation.winner}, the rule gives {cheapest}"
    if confirmation.winner != chosen:
        yield f"{SWEEP}: selection.trial is {chosen}, the confirmation's winner is {confirmation.winner}"


def _data(folder: Path) -> Iterator[str]:
    """The data's fingerprint, where data of the same task, options and conventions is prepared on this machine."""
    spec, stated = load_trial(folder / CONFIG), _json(folder / PROVENANCE)["data"]
    if stated["task"] != spec.task.name:
        yield f"{PROVENANCE}: data.task is {stated['task']!r}, {CONFIG} has {spec.task.name!r}"
    found = {one.fingerprint: one for one in _prepared_here(spec, stated["conventions"])}
    if stated["fingerprint"] in found:
        try:
            found[stated["fingerprint"]].verify()
        except DataError as error:
            yield str(error)
    elif found:
        yield (
            f"{PROVENANCE}: data.fingerprint is {stated['fingerprint']!r}, the same task's data on this machine has "
            f"{' or '.join(found)}"
        )


def _prepared_here(spec: TrialSpec, conventions: Mapping[str, str]) -> Iterator[Any]:
    options = asdict(make_task(spec.task.name, **spec.task.options))  # type: ignore[call-overload]
    for path in sorted(cache_folder().glob(f"{spec.task.name}-*/")):
        try:
            prepared = open_prepared(path)
        except DataError:
            continue  # a leftover, or another task whose name begins the same
        if prepared.options == options and dict(prepared.info.conventions) == dict(conventions):
            yield prepared


def _compared(name: str, actual: Any, wanted: Any, source: str, path: str = "") -> Iterator[str]:
    for field, mine, theirs in differing(actual, wanted, path):
        yield f"{name}: {field} is {_short(mine)}, {source} has {_short(theirs)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
