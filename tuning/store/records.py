"""The trials of a study as plain values, from which an export is chosen and which its sweep.json contains."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from optuna.trial import FrozenTrial

from proxytune.tuning.spec.constraints import excesses
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import ATTEMPT, END, rung_entries
from proxytune.tuning.store.confirmation import read_confirmation
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.summary import outcome_of


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial: its parameters, its outcome, its metrics."""

    trial: int
    outcome: (
        str  # complete, pruned, infeasible, diverged, out_of_memory, failed, interrupted, queued, running
    )
    params: dict[str, Any]  # dotted keys of the space
    step: int  # optimizer steps trained
    metrics: dict[str, float]  # of its last report, and speeds that a confirmation measured
    values: dict[str, float]  # the objectives at the full budget; empty unless complete
    violations: dict[str, float]  # excess over each constraint, in the metric's unit; above 0 is a violation
    reports: dict[str, float]  # step: value of the objective (studies with one objective)
    rungs: dict[str, dict[str, Any]]  # step: {"values" (to be minimised), "violation"} as compared there
    reason: str
    attempts: int
    started: str | None  # ISO 8601, local time without a zone, as in Optuna
    ended: str | None

    @property
    def eligible(self) -> bool:
        """Whether it may win: trained to the full budget, within every constraint."""
        return self.outcome == Outcome.COMPLETE and not any(excess > 0 for excess in self.violations.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values for strict JSON: numbers that are not finite become strings."""
        return {name: strict_json(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Restore a record from the values of `to_json`.

        Raises:
            TypeError: a field is missing or unknown.
        """
        numbers = {
            name: {key: float(value) for key, value in values[name].items()}
            for name in ("metrics", "values", "violations", "reports")
            if name in values
        }
        return cls(**dict(values) | numbers)


def study_records(study: Study) -> list[TrialRecord]:
    """Every trial of the study, by number. Metrics include the speeds measured by a confirmation.

    Raises:
        StorageError: the storage does not respond.
    """
    confirmation = read_confirmation(study)
    measured = {one.trial: one.efficiency for one in confirmation.candidates} if confirmation else {}
    return [_record(trial, study.spec, measured.get(trial.number, {})) for trial in study.trials()]


def _record(trial: FrozenTrial, spec: StudySpec, measured: Mapping[str, float]) -> TrialRecord:
    end = trial.user_attrs.get(END, {"step": trial.last_step or 0, "metrics": {}, "reason": ""})
    outcome = outcome_of(trial)
    return TrialRecord(
        trial=trial.number,
        outcome=outcome,
        params=dict(trial.params),
        step=end["step"],
        metrics={**measured, **end["metrics"]},
        values=dict(zip(spec.search.objectives, trial.values, strict=True))
        if outcome is Outcome.COMPLETE
        else {},
        violations=excesses(spec.constraints, {**measured, **end["metrics"]}),
        reports={str(step): value for step, value in sorted(trial.intermediate_values.items())},
        rungs={str(step): entry for step, entry in sorted(rung_entries(trial).items())},
        reason=end["reason"],
        attempts=trial.user_attrs.get(ATTEMPT, 1),
        started=trial.datetime_start.isoformat() if trial.datetime_start else None,
        ended=trial.datetime_complete.isoformat() if trial.datetime_complete else None,
    )


def strict_json(value: Any) -> Any:
    """The value with non-finite numbers as strings, since JSON cannot represent them."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: strict_json(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [strict_json(inner) for inner in value]
    return value
