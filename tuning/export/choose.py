"""Chooses the exported trial by a rule that `verify` applies again to the trials in sweep.json.

Every rule considers the eligible trials: trained to the full budget and within every constraint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxytune.tuning.errors import InputError
from proxytune.tuning.export.request import THE_WINNER, ExportRequest
from proxytune.tuning.spec import ranking
from proxytune.tuning.spec.constraints import Constraint, feasible, violation
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.ranking import BEST_SEARCH_VALUE
from proxytune.tuning.store.confirmation import Confirmation
from proxytune.tuning.store.records import TrialRecord
from proxytune.tuning.store.winner import chosen

TIES = "ties go to the next objective, then to the lower number"
RULES = {
    "best": f"{BEST_SEARCH_VALUE}: the best {{first}} of the eligible trials; {TIES}",
    "limits": f"the best {{first}} of the eligible trials within {{limits}}; {TIES}",
    "pareto": "on the Pareto front: no eligible trial is better in one of {all} without being worse in another",
    "confirmed": "{confirmed}",
    "trial": "named by the user",
}
"""The rules by name; `Selection.text` is a rule with its placeholders filled in."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The chosen trial and the rule that chose it."""

    trial: int
    rule: str  # a key of RULES
    objectives: Mapping[str, str]  # metric: maximize | minimize, compared by the rule
    limits: Mapping[str, float] = field(default_factory=dict)  # max_memory_mib, min_throughput
    confirmed: str = ""  # the rule of the confirmation

    @property
    def text(self) -> str:
        """The rule in words."""
        return RULES[self.rule].format(
            first=next(iter(self.objectives)),
            all=", ".join(f"{metric} ({direction})" for metric, direction in self.objectives.items()),
            limits=" and ".join(map(str, ExportRequest(**self.limits).constraints)),
            confirmed=self.confirmed,
        )


def eligible_points(
    records: Sequence[TrialRecord], limits: Sequence[Constraint] = ()
) -> dict[int, Mapping[str, float]]:
    """Metrics of the eligible trials within the limits; trials without a limited metric are omitted."""
    return {
        record.trial: record.metrics
        for record in records
        if record.eligible
        and all(rule.metric in record.metrics for rule in limits)
        and feasible(limits, record.metrics)
    }


def choose(
    study: str,
    records: Sequence[TrialRecord],
    objectives: Mapping[str, str],
    constraints: Sequence[Constraint] = (),
    request: ExportRequest = THE_WINNER,
    confirmation: Confirmation | None = None,
) -> list[Selection]:
    """The requested trial, or the trials of the Pareto front; by default the study's winner.

    Args:
        study: name of the study, for error messages.
        records: all trials.
        objectives: objectives of the study.
        constraints: constraints of the study, for the error that names the nearest trial.
        request: the request.
        confirmation: the study's confirmation, if it has one.

    Raises:
        InputError: no trial satisfies the request; the message names the nearest trial.
    """
    if request.trial is not None:
        _check_complete(study, records, request.trial)
        return [Selection(trial=request.trial, rule="trial", objectives=objectives)]
    _check_eligible(study, records, constraints)
    if request.pareto:
        compared = ranking.front_objectives(objectives)
        numbers = ranking.front(eligible_points(records), compared)
        return [Selection(trial=number, rule="pareto", objectives=compared) for number in numbers]
    if request.constraints:
        number = ranking.best(eligible_points(records, request.constraints), objectives)
        if number is None:
            raise InputError(
                _nearest(study, [record for record in records if record.eligible], request.constraints)
            )
        return [Selection(trial=number, rule="limits", objectives=objectives, limits=request.limits)]
    found = chosen(eligible_points(records), objectives, confirmation)
    assert found is not None
    if confirmation is None:
        return [Selection(trial=found.trial, rule="best", objectives=objectives)]
    return [Selection(trial=found.trial, rule="confirmed", objectives=objectives, confirmed=found.rule)]


def _check_complete(study: str, records: Sequence[TrialRecord], number: int) -> None:
    if number >= len(records):
        known = f"its trials are 0 to {len(records) - 1}" if records else "it has no trials yet"
        raise InputError(f"study {study} has no trial {number}; {known}")
    if records[number].outcome != Outcome.COMPLETE:
        raise InputError(
            f"trial {number} is {records[number].outcome}; only a complete trial can be exported"
        )


def _check_eligible(study: str, records: Sequence[TrialRecord], constraints: Sequence[Constraint]) -> None:
    if any(record.eligible for record in records):
        return
    complete = [record for record in records if record.outcome == Outcome.COMPLETE]
    if complete:
        raise InputError(_nearest(study, complete, constraints))
    raise InputError(
        f"study {study} has no trial that reached the full budget within its constraints yet "
        f"({len(records)} trials so far); resume it"
    )


def _nearest(study: str, records: Sequence[TrialRecord], constraints: Sequence[Constraint]) -> str:
    """Message that names the trial nearest to constraints that no trial satisfies."""
    rules = ", ".join(map(str, constraints))
    known = [record for record in records if all(rule.metric in record.metrics for rule in constraints)]
    if not known:
        missing = next(
            rule.metric
            for rule in constraints
            if not any(rule.metric in record.metrics for record in records)
        )
        return (
            f"no trial of study {study} has measured {missing}, so {rules} cannot be checked; `proxytune confirm` "
            "measures it for the candidates, a constraint on it for every trial"
        )
    nearest = min(known, key=lambda record: (violation(constraints, record.metrics), record.trial))
    broken = ", ".join(
        f"{rule.metric} {nearest.metrics[rule.metric]:.4g}"
        for rule in constraints
        if rule.excess(nearest.metrics[rule.metric]) > 0
    )
    return (
        f"no complete trial of study {study} satisfies {rules}; trial {nearest.trial} is nearest with {broken}, "
        "and can be exported by its number"
    )
