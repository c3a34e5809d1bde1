"""The rows of a study: every configuration of a fixed list, or the best configuration of each mechanism of a search."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.compare.fixed_list import is_fixed_list
from proxytune.tuning.compare.row import Row
from proxytune.tuning.confirm.candidates import SEED, without_seed
from proxytune.tuning.confirm.confirm import efficiency_folder
from proxytune.tuning.confirm.opening import mean_and_interval
from proxytune.tuning.errors import InputError
from proxytune.tuning.journal.facts import first_facts
from proxytune.tuning.spec import ranking
from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.attributes import END
from proxytune.tuning.store.confirmation import Candidate, Confirmation, read_confirmation
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.test_split import read_openings
from proxytune.tuning.store.winner import eligible
from proxytune.tuning.trial.profile import cost_spec, predicted_profile

TRAIN, INFERENCE = "train_sequences_per_second", "inference_sequences_per_second"
_IN_MECHANISM = (
    "model.attention",
    "model.conv_kernel_size",
)  # searched keys that are part of the mechanism's name
Trials = list[FrozenTrial]


def study_rows(study: Study) -> list[Row]:
    """The rows of a study, in the order of their first trials.

    Raises:
        InputError: the study has no trial that reached the full budget.
        StorageError: the storage cannot be reached.
    """
    complete = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    if not complete:
        raise InputError(f"study {study.name} has no trial that reached the full budget yet; resume it")
    within = eligible(study)
    configurations: dict[str, Trials] = {}
    for trial in [trial for trial in complete if trial.number in within] or complete:
        key = json.dumps(without_seed(trial), sort_keys=True)
        configurations.setdefault(key, []).append(trial)
    if is_fixed_list(study):
        return [_fixed_row(study, trials) for trials in configurations.values()]
    return _best_rows(study, list(configurations.values()))


def mechanism(spec: TrialSpec) -> str:
    """Name of the attention, with its convolution if it has one."""
    kernel = spec.model["conv_kernel_size"]
    return str(spec.model["attention"]) + (f" + conv {kernel}" if kernel else "")


def _fixed_row(study: Study, trials: Trials) -> Row:
    by_seed = _by_seed(study, trials)
    return _row(
        study,
        trials[0].number,
        trials[0].params,
        by_seed,
        basis="one training" if len(by_seed) == 1 else "seeds of the study",
        **_tested(study, [trial.number for trial in trials]),
    )


def _best_rows(study: Study, configurations: Sequence[Trials]) -> list[Row]:
    """The confirmed or best configuration of each mechanism."""
    confirmation = read_confirmation(study)
    groups: dict[str, list[Trials]] = {}
    for trials in configurations:
        groups.setdefault(mechanism(study.spec.trial(trials[0].params)), []).append(trials)
    rows = []
    for own in groups.values():
        numbers = {trial.number for trials in own for trial in trials}
        confirmed = None if confirmation is None else _confirmed(confirmation, numbers)
        if confirmation is not None and confirmed is not None:
            rows.append(_confirmed_row(study, confirmed, confirmation))
        else:
            rows.append(_searched_row(study, own))
    return rows


def _confirmed(confirmation: Confirmation, numbers: set[int]) -> Candidate | None:
    """The winner if it is one of these trials, else the best of them that was not eliminated."""
    those = [
        candidate
        for candidate in confirmation.candidates
        if candidate.trial in numbers and candidate.eliminated_after is None
    ]
    return min(those, key=lambda candidate: candidate.trial != confirmation.winner, default=None)


def _confirmed_row(study: Study, candidate: Candidate, confirmation: Confirmation) -> Row:
    test = confirmation.test if candidate.trial == confirmation.winner else None
    is_accuracy = confirmation.objective == "val_accuracy"
    by_seed = dict(zip(candidate.seeds, candidate.values, strict=True)) if is_accuracy else {}
    tested: dict[str, Any] = {}
    if test is not None:
        tested = {"test_accuracy": test.mean, "test_interval": test.interval, "test_openings": test.openings}
    is_winner = candidate.trial == confirmation.winner
    rule = confirmation.rule if is_winner else f"confirmed mean over {len(candidate.seeds)} fresh seeds"
    return _row(
        study,
        candidate.trial,
        candidate.params,
        by_seed,
        basis=rule,
        accuracy=candidate.metrics["val_accuracy"],
        interval=candidate.interval if is_accuracy else None,
        **tested,
    )


def _searched_row(study: Study, configurations: Sequence[Trials]) -> Row:
    objectives = study.spec.search.objectives
    means = {
        position: {
            name: float(np.mean([trial.user_attrs[END]["metrics"].get(name, math.nan) for trial in trials]))
            for name in objectives
        }
        for position, trials in enumerate(configurations)
    }
    best = ranking.best(means, objectives)
    assert best is not None
    trials = configurations[best]
    by_seed = _by_seed(study, trials)
    basis = "one training" if len(by_seed) == 1 else "seeds of the study"
    if len(configurations) > 1:
        basis = f"{ranking.BEST_SEARCH_VALUE} of {len(configurations)}: optimistic"
    return _row(study, trials[0].number, trials[0].params, by_seed, basis=basis)


def _by_seed(study: Study, trials: Trials) -> dict[int, float]:
    return {
        int(trial.params.get(SEED, study.spec.seed)): float(trial.user_attrs[END]["metrics"]["val_accuracy"])
        for trial in trials
    }


def _tested(study: Study, numbers: Sequence[int]) -> dict[str, Any]:
    """The test accuracy of these trials, from the newest opening that tested all of them."""
    for opening in reversed(read_openings(study)):
        tested, result = opening["subject"].get("trials", []), opening["result"]
        if result is not None and set(numbers) <= set(tested):
            values = dict(zip(tested, result["values"], strict=True))
            mean, bounds = mean_and_interval([values[number] for number in numbers])
            return {"test_accuracy": mean, "test_interval": bounds, "test_openings": result["openings"]}
    return {}


def _row(
    study: Study,
    number: int,
    params: Mapping[str, Any],
    by_seed: dict[int, float],
    *,
    basis: str,
    **given: Any,
) -> Row:
    spec = study.spec.trial(params)
    device, efficiency = _efficiency(study, spec)
    predicted = predicted_profile(spec)[MEMORY]
    memory = efficiency.get(MEMORY, predicted)
    if "accuracy" not in given:
        given["accuracy"], given["interval"] = mean_and_interval(list(by_seed.values()))
    return Row(
        study=study.name,
        task=_task(spec),
        mechanism=mechanism(spec),
        configuration=_configuration(study, params),
        trial=number,
        evaluation_error=_evaluation_error(study, given["accuracy"]),
        by_seed=by_seed,
        basis=basis,
        steps=int(spec.training["steps"]),
        batch_size=int(spec.training["batch_size"]),
        memory_mib=memory,
        memory_is="predicted" if memory == predicted else "measured",
        train_per_second=efficiency.get(TRAIN),
        inference_per_second=efficiency.get(INFERENCE),
        device=device,
        **given,
    )


def _task(spec: TrialSpec) -> str:
    given = {key: value for key, value in sorted(spec.task.options.items()) if value is not None}
    options = ", ".join(f"{key} {value}" for key, value in given.items())
    return spec.task.name + (f" ({options})" if options else "")


def _configuration(study: Study, params: Mapping[str, Any]) -> str:
    """Searched values that vary in a fixed list, without the seed and the keys in the mechanism's name."""
    trials = study.trials() if is_fixed_list(study) else []
    shown = []
    for key, value in sorted(params.items()):
        varies = len({str(trial.params.get(key)) for trial in trials}) > 1
        if varies and key != SEED and key not in _IN_MECHANISM:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            shown.append(f"{key.rpartition('.')[2]} {text}")
    return ", ".join(shown)


def _evaluation_error(study: Study, accuracy: float) -> float | None:
    """The binomial standard error of an accuracy on the study's validation examples."""
    examples = first_facts(study.folder / "outbox").get("validation_examples")
    return None if not examples else math.sqrt(max(0.0, accuracy * (1 - accuracy)) / examples)


def _efficiency(study: Study, spec: TrialSpec) -> tuple[str | None, dict[str, float]]:
    """The device and the efficiency measured for the configuration by the search, `confirm` or `compare`."""
    costs = cost_spec(spec)
    for path in sorted(efficiency_folder(study).glob("*.json")):
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["costs"] == costs:
                threads = stored["threads"]
                return f"{stored['device']}, {threads} thread{'s' * (threads > 1)}", stored["efficiency"]
        except (OSError, ValueError, KeyError):  # written by another version, or incomplete
            continue
    return None, {}
