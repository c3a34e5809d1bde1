"""Warm start: reuses trials of an earlier study, read once when the new study is created.

Two uses, each as far as the two studies agree:

- **The best configurations run first.** Candidates are complete, satisfy the new study's constraints and lie inside the
  new space. They are ranked by the new study's objectives if the old trials reported them all, else by the old
  objectives. A key that only the new study searches takes the old study's fixed value. They are ordinary trials of the
  new study.
- **The trials inform the sampler** (tpe, gp and curve; the other samplers cannot use them) **and the stopping rule**
  (curve), if every key that is not
  searched now had the same value (task, model, steps, ...) and the values lie inside the new space. They are not trials
  of the new study: they have no number, do not count against the budget, appear in no rung, front or table, and are not
  shipped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.errors import InputError
from proxytune.tuning.journal.bank import open_banked
from proxytune.tuning.report.history import read_history
from proxytune.tuning.search.rungs import Entry, rank
from proxytune.tuning.spec.constraints import excesses, violation
from proxytune.tuning.spec.ranking import sign
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.attributes import BUDGET, END, ENQUEUED_BY, WARM_START
from proxytune.tuning.store.optuna_private import StudyView
from proxytune.tuning.store.study import open_study

MAX_INFORMING = 1000  # the newest trials; samplers become slow with more
IGNORED_KEYS = {
    "training.seed",
    "training.eval_every",
    "training.micro_batch_size",
    "training.compile",
    "task.root",
    "task.files",
    "task.partial",
}
"""Keys that may differ without making values incomparable."""


@dataclass(frozen=True)
class WarmStart:
    """What a new study takes from an earlier one, as JSON values.

    first: {"trial", "params"} of the configurations that run first. trials: {"state", "params", "values", "steps",
    "constraints"} of the trials that inform the search. notes: messages about what was left out and why.
    """

    study: str
    num_trials: int
    first: list[dict[str, Any]]
    trials: list[dict[str, Any]]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)

    def summary(self) -> str:
        """One line for the user."""
        return (
            f"warm start from {self.study}: {len(self.first)} of its configurations run first, "
            f"{len(self.trials)} of its {self.num_trials} trials inform the search"
        )

    def frozen_trials(self, spec: StudySpec) -> list[FrozenTrial]:
        """The informing trials in the new study's space, oldest first; each has the number -1."""
        distributions = spec.space.distributions
        return [
            optuna.trial.create_trial(
                state=TrialState[trial["state"]],
                values=trial["values"],
                params=trial["params"],
                distributions={key: distributions[key] for key in trial["params"]},
                intermediate_values={int(step): value for step, value in trial["steps"].items()},
                constraints=trial["constraints"],
            )
            for trial in self.trials
        ]


def read_warm_start(spec: StudySpec) -> WarmStart | None:
    """Read the study named by `search.warm_start`; None if the key is not set.

    Raises:
        InputError: the study does not exist, or it is the new study itself.
        StorageError: its storage cannot be reached.
    """
    config = spec.search.warm_start
    if config is None:
        return None
    if config.bank is not None:
        return _take(spec, *_banked(config.bank))
    assert config.study is not None, "checked by WarmStartSource"
    storage, database = config.storage or spec.storage, config.database or spec.database
    if config.study == spec.name and (storage.absolute(), database) == (
        spec.storage.absolute(),
        spec.database,
    ):
        raise InputError(f"search.warm_start.study: {config.study} is this study itself")
    try:
        source = open_study(config.study, storage, database)
    except InputError as error:
        raise InputError(f"search.warm_start.study: {error}") from None
    return _take(spec, source.spec, source.trials())


def _banked(name: str) -> tuple[StudySpec, list[FrozenTrial]]:
    """The spec and the trials of a study of the curve bank."""
    try:
        with open_banked(name) as outbox:
            history = read_history(outbox)
    except InputError as error:
        raise InputError(f"search.warm_start.bank: {error}") from None
    trials = history.optuna_study(history.objectives).trials
    for trial in trials:
        if trial.number in history.trials:
            trial.user_attrs[END] = {"metrics": history.trials[trial.number].last}
    return parse_study(history.spec, where=name), trials


def fill_study(study: optuna.Study, spec: StudySpec, earlier: WarmStart | None) -> None:
    """Store a new study's budget and enqueue its configurations, then those of an earlier study."""
    for params in spec.search.enqueue:
        study.enqueue_trial(dict(params))
    if earlier is not None:
        study.set_user_attr(WARM_START, earlier.to_json())
        for config in earlier.first:
            who = f"trial {config['trial']} of {earlier.study}"
            study.enqueue_trial(config["params"], {ENQUEUED_BY: who}, skip_if_exists=True)
    study.set_user_attr(BUDGET, spec.search.trials)


def _take(spec: StudySpec, source: StudySpec, trials: Sequence[FrozenTrial]) -> WarmStart:
    """Select the trials of `source` that `spec` can use."""
    assert spec.search.warm_start is not None
    new, notes = _flat(spec), []
    candidates: dict[int, dict[str, Any]] = {}
    entries: dict[int, Entry] = {}
    informing = []
    uninformed: list[tuple[int, str]] = []
    all_reported = all(
        set(spec.search.objectives) <= set(trial.user_attrs[END]["metrics"])
        for trial in trials
        if trial.state == TrialState.COMPLETE and END in trial.user_attrs
    )
    objectives = spec.search.objectives if all_reported else source.search.objectives
    rules = spec.constraints
    for trial in trials:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or END not in trial.user_attrs:
            continue
        metrics = trial.user_attrs[END]["metrics"]
        config = _flat(source.trial(trial.params))
        params, outside = _inside(spec, new, config)
        if trial.state == TrialState.COMPLETE:
            values = tuple(sign(direction) * metrics[name] for name, direction in objectives.items())
            feasible = all(excess <= 0 for excess in trial.constraints.values())
            entries[trial.number] = Entry(values=values, violation=violation(rules, metrics))
            candidates[trial.number] = {"params": params, "outside": outside, "feasible": feasible}
        other = outside or _difference(spec, new, config)
        if other:
            uninformed.append((trial.number, other))
        elif (known := _result(spec, source, trial, metrics)) is not None:
            informing.append(known | {"params": params, "constraints": excesses(rules, metrics)})
    first: list[dict[str, Any]] = []
    for number in rank(entries):
        candidate = candidates[number]
        if len(first) == spec.search.warm_start.top:
            break
        if not candidate["feasible"] or entries[number].violation > 0:
            notes.append(f"trial {number} does not run first: it violates a constraint")
        elif candidate["outside"]:
            notes.append(f"trial {number} does not run first: {candidate['outside']}")
        elif candidate["params"] not in [*spec.search.enqueue, *(config["params"] for config in first)]:
            first.append({"trial": number, "params": candidate["params"]})
    if spec.search.sampler.name not in LEARNERS and spec.search.stopping.name != "curve":
        informing = []
        notes.append(f"sampler {spec.search.sampler.name} cannot use trials of another study")
    elif not all_reported:
        notes.append("its trials lack an objective of this study, so they do not inform the search")
    elif uninformed:
        number, why = uninformed[0]
        notes.append(f"{len(uninformed)} trials do not inform the search, such as trial {number}: {why}")
    return WarmStart(source.name, len(trials), first, informing[-MAX_INFORMING:], notes)


LEARNERS = ("tpe", "gp", "curve")


def _flat(spec: TrialSpec) -> dict[str, Any]:
    """All values of a configuration by dotted key."""
    sections = {"model": spec.model, "training": spec.training, "task": spec.task.model_dump()}
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def _inside(spec: StudySpec, new: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Values of the keys searched now, and a message about the first value outside its domain (empty if none)."""
    params: dict[str, Any] = {}
    for key in spec.space.order:
        if spec.space.holds(key, {**new, **params}):
            if not spec.space.domains[key].contains(config.get(key)):
                return {}, f"{key}={config.get(key)} is outside its domain"
            params[key] = config[key]
    return params, ""


def _difference(spec: StudySpec, new: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The first key that makes the results incomparable, with both values; empty if there is none."""
    for key in sorted(config.keys() | new.keys()):
        if key not in IGNORED_KEYS and key not in spec.space.domains and config.get(key) != new.get(key):
            return f"{key} was {config.get(key)}, here {new.get(key)}"
    return ""


def _result(
    spec: StudySpec, source: StudySpec, trial: FrozenTrial, metrics: Mapping[str, float]
) -> dict[str, Any] | None:
    """The part of a trial's result that the new study's search can use; None if there is none."""
    same = list(spec.search.objectives.items()) == list(source.search.objectives.items())
    steps = dict(trial.intermediate_values) if same else {}  # only single-objective studies have them
    if trial.state == TrialState.COMPLETE:
        values = [metrics.get(name) for name in spec.search.objectives]
        return {"state": "COMPLETE", "values": values, "steps": steps} if None not in values else None
    return {"state": "PRUNED", "values": None, "steps": steps} if steps else None


def with_earlier(study: optuna.Study, earlier: Sequence[FrozenTrial]) -> Any:
    """The study with the trials of an earlier study before its own."""
    return StudyView(study, earlier)


class WarmStartSampler(BaseSampler):
    """A sampler that sees the trials of an earlier study before those of its own study."""

    def __init__(self, sampler: BaseSampler, earlier: Sequence[FrozenTrial]) -> None:
        self._sampler = sampler
        self._earlier = list(earlier)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return self._sampler.infer_relative_search_space(self._view(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(self._view(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        return self._sampler.sample_independent(self._view(study), trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def _view(self, study: optuna.Study) -> Any:
        return with_earlier(study, self._earlier)
