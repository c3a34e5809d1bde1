"""Compares configurations of finished studies: accuracy, differences paired by seed, memory, throughput."""

from collections.abc import Sequence
from dataclasses import replace

from proxytune.tuning.compare.row import Comparison, Difference, Row
from proxytune.tuning.compare.study_rows import study_rows
from proxytune.tuning.confirm.racing import interval
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.study import Study

ANCHORS = ("softmax", "softmax-explicit", "softmax-checkpointed")
"""Reference of the ratios: the first of these mechanisms that was trained on the same task."""


def compare(studies: Sequence[Study]) -> Comparison:
    """The rows of all studies by task, in the order of the studies and of their trials.

    A study of a fixed list (a grid, or all trials enqueued) has a row for each configuration, ignoring the seed. A search
    has a row for each mechanism. Differences are relative to the first row of the task, so an ablation lists its base
    first.

    Raises:
        InputError: a study has no trial that reached the full budget.
        StorageError: a storage cannot be reached.
    """
    found = sorted((row for study in studies for row in study_rows(study)), key=lambda row: row.task)
    rows = []
    anchors: dict[str, Row | None] = {}
    for row in found:
        own = [other for other in found if other.task == row.task]
        anchors[row.task] = _anchor(own)
        rows.append(_with_ratios(replace(row, difference=_difference(row, own[0])), anchors[row.task]))
    return Comparison(rows=tuple(rows), notes=tuple(_notes(rows, anchors)))


def specs_without_speed(study: Study, rows: Sequence[Row]) -> list[TrialSpec]:
    """The configurations of the study's rows whose speed was not measured."""
    trials = study.trials()
    return [
        study.spec.trial(trials[row.trial].params)
        for row in rows
        if row.study == study.name and row.train_per_second is None
    ]


def _difference(row: Row, base: Row) -> Difference | None:
    shared = sorted(row.by_seed.keys() & base.by_seed.keys())
    if row is base or not shared:
        return None
    values = [row.by_seed[seed] - base.by_seed[seed] for seed in shared]
    return Difference(
        to=f"{base.name} of study {base.study}",
        mean=sum(values) / len(values),
        interval=interval(values, (-1.0, 1.0)),
        seeds=len(shared),
    )


def _anchor(rows: Sequence[Row]) -> Row | None:
    return next((row for name in ANCHORS for row in rows if row.mechanism == name), None)


def _with_ratios(row: Row, anchor: Row | None) -> Row:
    if anchor is None:
        return row
    if (row.memory_is, row.batch_size) == (anchor.memory_is, anchor.batch_size):
        row = replace(row, memory_to_softmax=row.memory_mib / anchor.memory_mib)
    if row.device == anchor.device and row.train_per_second and anchor.train_per_second:
        row = replace(row, train_to_softmax=row.train_per_second / anchor.train_per_second)
    if row.device == anchor.device and row.inference_per_second and anchor.inference_per_second:
        row = replace(row, inference_to_softmax=row.inference_per_second / anchor.inference_per_second)
    return row


def _notes(rows: Sequence[Row], anchors: dict[str, Row | None]) -> list[str]:
    notes = []
    for task, anchor in sorted(anchors.items()):
        notes += _task_notes(task, [row for row in rows if row.task == task], anchor)
    single = sum(row.interval is None for row in rows)
    if single:
        notes.append(f"{single} of {len(rows)} accuracies are from a single training and have no interval")
    if any(row.evaluation_error is not None for row in rows):
        notes.append(
            "± is the binomial standard error of one accuracy on the validation examples; intervals are over training "
            "seeds and do not include the sampling of these examples"
        )
    kinds = {row.memory_is for row in rows}
    measured = ", ".join(sorted({row.study for row in rows if row.memory_is == "measured"}))
    notes.append(
        f"memory is {kinds.pop()}"
        if len(kinds) == 1
        else f"memory is measured in {measured}, otherwise predicted"
    )
    missing = sorted({row.study for row in rows if row.train_per_second is None})
    if missing:
        notes.append(f"no throughput was measured in {', '.join(missing)}")
    return notes


def _task_notes(task: str, rows: Sequence[Row], anchor: Row | None) -> list[str]:
    notes = [
        f"{task}: no ratios, because softmax attention was not trained on it"
        if anchor is None
        else f"{task}: (x) is relative to {anchor.mechanism} of study {anchor.study}"
    ]
    if any(row.difference is not None for row in rows):
        base = rows[0]
        notes.append(
            f"{task}: differences are to {base.name} of study {base.study}, paired by training seed, with 95 % intervals"
        )
    budgets = sorted({(row.steps, row.batch_size) for row in rows})
    if len(budgets) > 1:
        listed = "; ".join(
            f"{steps:,} steps of {size}: "
            + ", ".join(
                dict.fromkeys(row.study for row in rows if (row.steps, row.batch_size) == (steps, size))
            )
            for steps, size in budgets
        )
        notes.append(f"{task}: the budgets differ, so the accuracies are not comparable ({listed})")
    return notes
