"""Evaluates a trial's metrics for the search: objectives, violated constraints, comparison at a rung."""

import math
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from proxytune.tuning.search.rungs import Entry, Rungs, make_brackets
from proxytune.tuning.spec.constraints import excesses, violation
from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.ranking import sign
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import rung_entries
from proxytune.tuning.trial.update import TrialUpdate


class Judgement:
    """Evaluates metrics against a study's objectives, constraints and brackets; never changes a trial.

    Attributes:
        objectives: names of the objectives, in the study file's order.
    """

    def __init__(self, spec: StudySpec) -> None:
        self.objectives = list(spec.search.objectives)
        self._signs = [sign(direction) for direction in spec.search.objectives.values()]
        self._constraints = spec.constraints
        self._brackets = make_brackets(spec)
        self._spec = spec
        self._by_curve = spec.search.stopping.name == "curve"

    def bracket(self, number: int) -> Rungs:
        """The rungs of the trial's bracket."""
        return self._brackets[number % len(self._brackets)]

    def restore(self, trial: FrozenTrial) -> None:
        """Restore the rung entries of a trial from the storage."""
        for rung, entry in rung_entries(trial).items():
            self.bracket(trial.number).enter(trial.number, rung, Entry.from_json(entry))

    def stopped_at(self, rung: int, number: int, study: optuna.Study) -> str | None:
        """Why the stopping rule stops a trial that has entered the rung; None: it continues."""
        rungs = self.bracket(number)
        entry = rungs.entry(number, rung)
        if self._by_curve and entry.violation == 0 and all(map(math.isfinite, entry.values)):
            from proxytune.tuning.search.curve_stopping import (
                MIN_CHANCE,
                chance,
            )  # scipy takes 0.5 s to import

            if (found := chance(self._spec, study, number)) is not None:
                few = f"its chance of becoming the best is {found:.1%} at step {rung}"
                return few if found < MIN_CHANCE else None
        return None if rungs.continues(number, rung) else f"not among the best at step {rung}"

    def verdict(self, update: TrialUpdate, stopped: str | None) -> tuple[Outcome, str] | None:
        """The outcome of an update and its reason; None: the trial continues. `stopped`: why a rung stops the trial."""
        if update.outcome not in (Outcome.RUNNING, Outcome.COMPLETE):
            return update.outcome, update.reason
        values = [] if update.metrics is None else self.values(update.metrics)
        if not all(map(math.isfinite, values)):
            return Outcome.DIVERGED, f"objective is {values} at step {update.step}"
        if update.outcome == Outcome.COMPLETE:
            return Outcome.COMPLETE, ""
        if update.profile is not None and (broken := self.broken(update.profile)):
            return Outcome.PRUNED, f"measured {broken} violates the constraint"
        if stopped is not None:
            return Outcome.PRUNED, stopped
        return None

    def values(self, metrics: Mapping[str, float]) -> list[float]:
        """Objective values in the study file's order, without sign changes."""
        return [metrics[name] for name in self.objectives]

    def entry(self, metrics: Mapping[str, float]) -> Entry:
        """The rung entry of a trial with these metrics: values to be minimised and the constraint violation."""
        values = [factor * value for factor, value in zip(self._signs, self.values(metrics), strict=True)]
        return Entry(values=tuple(values), violation=violation(self._constraints, metrics))

    def broken(self, profile: Mapping[str, float]) -> str:
        """Violated constraints with their values; empty if all hold."""
        return ", ".join(
            f"{constraint.metric} {profile[constraint.metric]:.4g}"
            for constraint in self._constraints
            if constraint.metric in profile and constraint.excess(profile[constraint.metric]) > 0
        )

    def excesses(self, end: Mapping[str, Any]) -> dict[str, float]:
        """Excess of an ended trial over each constraint whose metric is known; 0 or less is feasible."""
        found = excesses(self._constraints, end["metrics"])
        limited = any(constraint.metric == MEMORY for constraint in self._constraints)
        if limited and end["outcome"] == Outcome.OUT_OF_MEMORY:
            # The trial needs more memory than predicted; the amount is unknown.
            found[MEMORY] = max(1.0, found.get(MEMORY, 0.0))
        return found
