"""The paper's table from finished studies: accuracy with its interval, memory, throughput, and their ratios to softmax."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.confirm.candidates import without_seed
from proxytune.tuning.confirm.confirm import efficiency_folder
from proxytune.tuning.confirm.racing import interval
from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.metrics import MEMORY, bounds_of
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.attributes import END
from proxytune.tuning.store.confirmation import Candidate, Confirmation, read_confirmation
from proxytune.tuning.store.study import Study
from proxytune.tuning.trial.profile import cost_spec, predicted_profile

ANCHORS = ("softmax", "softmax-explicit", "softmax-checkpointed")
"""What the ratios are to: the first of these that was trained on the same task."""
TRAIN, INFERENCE = "train_sequences_per_second", "inference_sequences_per_second"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One mechanism of one study."""

    study: str
    task: str  # with its options
    mechanism: str
    trial: int
    accuracy: float  # on the validation split, mean over `seeds`, 0 to 1
    interval: tuple[float, float] | None  # 95 %
    seeds: int
    basis: str  # where the accuracy comes from: confirmed, seeds of the study, or a single search score
    test_accuracy: float | None  # of a confirmed winner whose test split was opened
    test_openings: int
    steps: int
    batch_size: int
    memory_mib: float  # a sequence, training
    memory_is: str  # measured | predicted
    train_per_second: float | None  # sequences; measured alone on `device`
    inference_per_second: float | None
    device: str | None
    memory_to_softmax: float | None = None
    train_to_softmax: float | None = None
    inference_to_softmax: float | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The rows, and what a reader must know about them."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON holds."""
        return asdict(self)


def compare(studies: Sequence[Study]) -> Comparison:
    """The rows of all studies, by task, each mechanism's best.

    Raises:
        InputError: a study has no trial of the full budget.
    """
    rows = sorted(
        (row for study in studies for row in _rows(study)),
        key=lambda row: (row.task, row.mechanism, row.study),
    )
    anchors = {
        task: _anchor([row for row in rows if row.task == task]) for task in {row.task for row in rows}
    }
    rows = [_with_ratios(row, anchors[row.task]) for row in rows]
    return Comparison(rows=tuple(rows), notes=tuple(_notes(rows, anchors)))


def _rows(study: Study) -> list[Row]:
    complete = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    if not complete:
        raise InputError(f"study {study.name} has no trial of the full budget yet; run it further")
    feasible = [trial for trial in complete if all(excess <= 0 for excess in trial.constraints.values())]
    confirmation = read_confirmation(study)
    groups: dict[str, dict[str, list[FrozenTrial]]] = {}
    for trial in feasible or complete:
        own = groups.setdefault(mechanism(study.spec.trial(trial.params)), {})
        own.setdefault(json.dumps(without_seed(trial), sort_keys=True), []).append(trial)
    rows = []
    for name, configurations in groups.items():
        numbers = {trial.number for trials in configurations.values() for trial in trials}
        confirmed = None if confirmation is None else _confirmed(confirmation, numbers)
        if confirmed is not None:
            assert confirmation is not None
            rows.append(_confirmed_row(study, name, confirmed, confirmation))
        else:
            rows.append(_searched_row(study, name, list(configurations.values())))
    return rows


def mechanism(spec: TrialSpec) -> str:
    """The attention's name, with the convolution where it has one."""
    kernel = spec.model["conv_kernel_size"]
    return str(spec.model["attention"]) + (f" + conv {kernel}" if kernel else "")


def _confirmed(confirmation: Confirmation, numbers: set[int]) -> Candidate | None:
    """The winner if it is one of these trials, else the best of them that stayed to the end of the race."""
    those = [
        candidate
        for candidate in confirmation.candidates
        if candidate.trial in numbers and candidate.eliminated_after is None
    ]
    return min(those, key=lambda candidate: candidate.trial != confirmation.winner, default=None)


def _confirmed_row(study: Study, name: str, candidate: Candidate, confirmation: Confirmation) -> Row:
    test = confirmation.test if candidate.trial == confirmation.winner else None
    return _row(
        study,
        name,
        candidate.trial,
        study.spec.trial(candidate.params),
        accuracy=candidate.metrics["val_accuracy"],
        interval=candidate.interval if confirmation.objective == "val_accuracy" else None,
        seeds=len(candidate.seeds),
        basis="confirmed on fresh seeds",
        test_accuracy=None if test is None else test.mean,
        test_openings=0 if test is None else test.openings,
    )


def _searched_row(study: Study, name: str, configurations: Sequence[Sequence[FrozenTrial]]) -> Row:
    objective, direction = next(iter(study.spec.search.objectives.items()))
    sign = 1.0 if direction == "maximize" else -1.0
    best = max(
        configurations,
        key=lambda trials: np.mean([sign * trial.user_attrs[END]["metrics"][objective] for trial in trials]),
    )
    accuracies = [float(trial.user_attrs[END]["metrics"]["val_accuracy"]) for trial in best]
    basis = "one training" if len(best) == 1 else "seeds of the study"
    if len(configurations) > 1:
        basis = f"search score, best of {len(configurations)}: optimistic"
    return _row(
        study,
        name,
        best[0].number,
        study.spec.trial(best[0].params),
        accuracy=float(np.mean(accuracies)),
        interval=interval(accuracies, bounds_of("val_accuracy")),
        seeds=len(best),
        basis=basis,
        test_accuracy=None,
        test_openings=0,
    )


def _row(study: Study, name: str, number: int, spec: TrialSpec, **accuracy: Any) -> Row:
    device, efficiency = _efficiency(study, spec)
    predicted = predicted_profile(spec)[MEMORY]
    memory = efficiency.get(MEMORY, predicted)
    options = ", ".join(
        f"{key} {value}" for key, value in sorted(spec.task.options.items()) if value is not None
    )
    return Row(
        study=study.name,
        task=spec.task.name + (f" ({options})" if options else ""),
        mechanism=name,
        trial=number,
        steps=int(spec.training["steps"]),
        batch_size=int(spec.training["batch_size"]),
        memory_mib=memory,
        memory_is="predicted" if memory == predicted else "measured",
        train_per_second=efficiency.get(TRAIN),
        inference_per_second=efficiency.get(INFERENCE),
        device=device,
        **accuracy,
    )


def _efficiency(study: Study, spec: TrialSpec) -> tuple[str | None, dict[str, float]]:
    """What the configuration was measured to cost, by the search, `confirm` or `compare --measure`, and on what."""
    costs = cost_spec(spec)
    for path in sorted(efficiency_folder(study).glob("*.json")):
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["costs"] == costs:
                threads = stored["threads"]
                return f"{stored['device']}, {threads} thread{'s' * (threads > 1)}", stored["efficiency"]
        except (OSError, ValueError, KeyError):  # another version's, or being written
            continue
    return None, {}


def specs_without_speed(study: Study, rows: Sequence[Row]) -> list[TrialSpec]:
    """The configurations of these rows whose speed was never measured."""
    trials = study.trials()
    return [
        study.spec.trial(trials[row.trial].params)
        for row in rows
        if row.study == study.name and row.train_per_second is None
    ]


def _anchor(rows: Sequence[Row]) -> Row | None:
    for name in ANCHORS:
        for row in rows:
            if row.mechanism == name:
                return row
    return None


def _with_ratios(row: Row, anchor: Row | None) -> Row:
    if anchor is None:
        return row
    ratio = replace(row, memory_to_softmax=None)
    if (row.memory_is, row.batch_size) == (anchor.memory_is, anchor.batch_size):
        ratio = replace(ratio, memory_to_softmax=row.memory_mib / anchor.memory_mib)
    if row.device == anchor.device and row.train_per_second and anchor.train_per_second:
        ratio = replace(ratio, train_to_softmax=row.train_per_second / anchor.train_per_second)
    if row.device == anchor.device and row.inference_per_second and anchor.inference_per_second:
        ratio = replace(ratio, inference_to_softmax=row.inference_per_second / anchor.inference_per_second)
    return ratio


def _notes(rows: Sequence[Row], anchors: dict[str, Row | None]) -> list[str]:
    notes = []
    for task, anchor in sorted(anchors.items()):
        own = [row for row in rows if row.task == task]
        if anchor is None:
            notes.append(f"{task}: no ratios, since no softmax was trained on it")
        else:
            notes.append(f"{task}: (x) is relative to {anchor.mechanism} of study {anchor.study}")
        budgets = {(row.steps, row.batch_size) for row in own}
        if len(budgets) > 1:
            listed = "; ".join(
                f"{steps:,} steps of {size}: {', '.join(row.study for row in own if (row.steps, row.batch_size) == (steps, size))}"
                for steps, size in sorted(budgets)
            )
            notes.append(f"{task}: the budgets differ, so the accuracies are not comparable ({listed})")
    single = sum(row.interval is None for row in rows)
    if single:
        notes.append(f"{single} of {len(rows)} accuracies rest on one training and have no interval")
    kinds = {row.memory_is for row in rows}
    notes.append(
        f"memory is {kinds.pop()}"
        if len(kinds) == 1
        else "memory is measured in "
        + ", ".join(sorted({row.study for row in rows if row.memory_is == "measured"}))
        + ", predicted in the others"
    )
    missing = sorted({row.study for row in rows if row.train_per_second is None})
    if missing:
        notes.append(f"no throughput was measured in {', '.join(missing)}; --measure does, here")
    return notes
