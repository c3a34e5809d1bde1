"""Warm start: trials of an earlier study for a new one, frozen when the new study is created.

Two things, each as far as the two studies agree:

- **Its best configurations go first.** Ranked by the new study's objectives where the old trials know them all (else by
  their own), those that keep the new study's constraints, completed, and inside the new space; a key that only the new
  study searches takes the old study's fixed value. They are trials of the new study like any other.
- **Its trials inform the sampler** (tpe, gp and curve; the others have no use for foreign trials), if all that is not searched
  now was the same (task, model, steps, ...) and the values lie inside the new space. They are no trials of the new
  study: they have no number, count against no budget, stand in no rung, front or table, and are not shipped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.errors import InputError
from proxytune.tuning.search.rungs import Entry, rank
from proxytune.tuning.spec.constraints import violation
from proxytune.tuning.spec.ranking import sign
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.attributes import BUDGET, END, ENQUEUED_BY, WARM_START
from proxytune.tuning.store.optuna_private import StudyView
from proxytune.tuning.store.study import open_study

MAX_INFORMING = 1000  # the newest ones; a sampler grows slow on more
NO_MATTER = {
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
    """What was taken from an earlier study, in plain values.

    first: {"trial", "params"} of the configurations that go first. trials: {"state", "params", "values", "steps",
    "constraints"} of those that inform the sampler. notes: for people, what was left out and why.
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
        """One line for people."""
        return (
            f"warm start from {self.study}: {len(self.first)} of its configurations go first, "
            f"{len(self.trials)} of its {self.num_trials} trials inform the sampler"
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
    """What a new study of this spec takes from its `search.warm_start`, if it names one.

    Raises:
        InputError: there is no such study, or it is this one.
        StorageError: its storage does not answer.
    """
    wish = spec.search.warm_start
    if wish is None:
        return None
    storage, database = wish.storage or spec.storage, wish.database or spec.database
    if wish.study == spec.name and (storage.absolute(), database) == (spec.storage.absolute(), spec.database):
        raise InputError(f"search.warm_start.study: {wish.study} is this study itself")
    try:
        source = open_study(wish.study, storage, database)
    except InputError as error:
        raise InputError(f"search.warm_start.study: {error}") from None
    return _take(spec, source.spec, source.trials())


def fill_study(study: optuna.Study, spec: StudySpec, earlier: WarmStart | None) -> None:
    """Give a new study its budget, what is enqueued, and then what it takes from an earlier one."""
    for params in spec.search.enqueue:
        study.enqueue_trial(dict(params))
    if earlier is not None:
        study.set_user_attr(WARM_START, earlier.to_json())
        for one in earlier.first:
            who = f"trial {one['trial']} of {earlier.study}"
            study.enqueue_trial(one["params"], {ENQUEUED_BY: who}, skip_if_exists=True)
    study.set_user_attr(BUDGET, spec.search.trials)


def _take(spec: StudySpec, source: StudySpec, trials: Sequence[FrozenTrial]) -> WarmStart:
    """What `spec` takes from the trials of `source`."""
    assert spec.search.warm_start is not None
    new, notes = _flat(spec), []
    candidates: dict[int, dict[str, Any]] = {}
    entries: dict[int, Entry] = {}
    informing = []
    uninformed: list[tuple[int, str]] = []
    told_all = all(
        set(spec.search.objectives) <= set(trial.user_attrs[END]["metrics"])
        for trial in trials
        if trial.state == TrialState.COMPLETE and END in trial.user_attrs
    )
    objectives = spec.search.objectives if told_all else source.search.objectives
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
        elif (known := _told(spec, source, trial, metrics)) is not None:
            constraints = {
                rule.metric: rule.excess(metrics[rule.metric]) for rule in rules if rule.metric in metrics
            }
            informing.append(known | {"params": params, "constraints": constraints})
    first: list[dict[str, Any]] = []
    for number in rank(entries):
        candidate = candidates[number]
        if len(first) == spec.search.warm_start.top:
            break
        if not candidate["feasible"] or entries[number].violation > 0:
            notes.append(f"trial {number} does not go first: it breaks a constraint")
        elif candidate["outside"]:
            notes.append(f"trial {number} does not go first: {candidate['outside']}")
        elif candidate["params"] not in [*spec.search.enqueue, *(one["params"] for one in first)]:
            first.append({"trial": number, "params": candidate["params"]})
    if spec.search.sampler.name not in LEARNERS:
        informing = []
        notes.append(f"sampler {spec.search.sampler.name} takes nothing from trials of another study")
    elif not told_all:
        notes.append("its trials do not know every objective of this study, so they inform no sampler")
    elif uninformed:
        number, why = uninformed[0]
        notes.append(f"{len(uninformed)} trials do not inform the sampler, such as trial {number}: {why}")
    return WarmStart(source.name, len(trials), first, informing[-MAX_INFORMING:], notes)


LEARNERS = ("tpe", "gp", "curve")


def _flat(spec: TrialSpec) -> dict[str, Any]:
    """Every key of a configuration, dotted."""
    sections = {"model": spec.model, "training": spec.training, "task": spec.task.model_dump()}
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def _inside(spec: StudySpec, new: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The configuration's values of the keys that are searched now, and which one lies outside (empty: none)."""
    params: dict[str, Any] = {}
    for key in spec.space.order:
        if spec.space.holds(key, {**new, **params}):
            if not spec.space.domains[key].contains(config.get(key)):
                return {}, f"{key}={config.get(key)} is outside its domain"
            params[key] = config[key]
    return params, ""


def _difference(spec: StudySpec, new: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The first key that makes the configuration's values incomparable, and how; empty if none does."""
    for key in sorted(config.keys() | new.keys()):
        if key not in NO_MATTER and key not in spec.space.domains and config.get(key) != new.get(key):
            return f"{key} was {config.get(key)}, here {new.get(key)}"
    return ""


def _told(
    spec: StudySpec, source: StudySpec, trial: FrozenTrial, metrics: Mapping[str, float]
) -> dict[str, Any] | None:
    """What the new study's sampler sees of a trial's result; None: nothing."""
    if trial.state == TrialState.COMPLETE:
        values = [metrics.get(name) for name in spec.search.objectives]
        return {"state": "COMPLETE", "values": values, "steps": {}} if None not in values else None
    same = list(spec.search.objectives.items()) == list(source.search.objectives.items())
    if same and trial.intermediate_values:  # of a single objective
        return {"state": "PRUNED", "values": None, "steps": dict(trial.intermediate_values)}
    return None


class WarmStartSampler(BaseSampler):
    """A sampler that sees an earlier study's trials before those of its own."""

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
        return StudyView(study, self._earlier)
