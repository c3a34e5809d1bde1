"""Which trial is the winner, by a rule that a reader can apply again to the sweep card's trials (verify does).

Every rule works on the eligible trials alone: trained to the full budget, within every constraint. Ties go to the
lower number.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxytune.tuning.errors import InputError
from proxytune.tuning.export.records import TrialRecord
from proxytune.tuning.spec.constraints import Constraint, violation
from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.spec.outcome import Outcome

THROUGHPUT = "train_sequences_per_second"

RULES = {
    "best": "the best {first} among the eligible trials; ties go to the lower number",
    "front": "the best {first} among the eligible trials that no other one dominates in {all}; "
    "ties go to the lower number",
    "limits": "the best {first} among the eligible trials that also keep {limits}; ties go to the lower number",
    "pareto": "one of the eligible trials that no other one dominates in {all}",
    "confirmed": "the winner of the confirmation: the best mean over fresh seeds or, among those that nothing "
    "tells from it, the cheapest",
    "trial": "named by the user",
}
"""The rules by name; `Selection.text` is one with its gaps filled in."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds beside the study's own constraints; None is no bound."""

    max_memory_mib: float | None = None  # train_memory_mib_per_sequence
    min_throughput: float | None = None  # train_sequences_per_second

    def __bool__(self) -> bool:
        return bool(self.constraints)

    @property
    def constraints(self) -> list[Constraint]:
        """The bounds as constraints on metrics."""
        bounds = ((MEMORY, 1, self.max_memory_mib), (THROUGHPUT, -1, self.min_throughput))
        return [Constraint(metric, sign, bound) for metric, sign, bound in bounds if bound is not None]

    def __str__(self) -> str:
        return " and ".join(map(_rule, self.constraints))


NO_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The trial that was chosen, and by which rule."""

    trial: int
    rule: str  # a key of RULES
    objectives: Mapping[str, str]  # metric: maximize | minimize; what the rule compares
    limits: Mapping[str, float] = field(default_factory=dict)  # max_memory_mib, min_throughput

    @property
    def text(self) -> str:
        """The rule in words."""
        first, directions = next(iter(self.objectives)), self.objectives.items()
        return RULES[self.rule].format(
            first=first,
            all=", ".join(f"{metric} ({direction})" for metric, direction in directions),
            limits=Limits(**self.limits),
        )


def best_record(records: Sequence[TrialRecord], objectives: Mapping[str, str]) -> TrialRecord | None:
    """The winner of a search: with several objectives, the best in the first one on the Pareto front."""
    shown = front(records, objectives) if len(objectives) > 1 else [one for one in records if one.eligible]
    return min(shown, key=lambda one: (_minimised(one, objectives)[0], one.trial), default=None)


def front(records: Sequence[TrialRecord], objectives: Mapping[str, str]) -> list[TrialRecord]:
    """The eligible trials that no other one dominates, by number."""
    points = [(one, _minimised(one, objectives)) for one in records if one.eligible]
    return [one for one, point in points if not any(_dominates(other, point) for _, other in points)]


def front_objectives(objectives: Mapping[str, str]) -> dict[str, str]:
    """What a Pareto front is drawn over: the study's objectives, and a lone one against the memory of training."""
    return dict(objectives) | (
        {MEMORY: "minimize"} if len(objectives) == 1 and MEMORY not in objectives else {}
    )


def within(
    records: Sequence[TrialRecord], objectives: Mapping[str, str], limits: Limits
) -> TrialRecord | None:
    """The best eligible trial within the limits; a trial whose metric is unknown is not."""
    kept = [
        one
        for one in records
        if all(
            rule.metric in one.metrics and rule.excess(one.metrics[rule.metric]) <= 0
            for rule in limits.constraints
        )
    ]
    return best_record(kept, objectives)


def choose(
    study: str,
    records: Sequence[TrialRecord],
    objectives: Mapping[str, str],
    *,
    number: int | None = None,
    limits: Limits = NO_LIMITS,
    confirmed: int | None = None,
    constraints: Sequence[Constraint] = (),
) -> Selection:
    """The trial to export: the named one, the best within limits, the confirmed winner, or the search's best.

    Args:
        study: its name, for the errors.
        records: every trial.
        objectives: the study's.
        number: a trial that the user names.
        limits: what the user asks beside the constraints.
        confirmed: the winner of the study's confirmation.
        constraints: the study's, to say how near a trial comes.

    Raises:
        InputError: no trial can be chosen so; says which comes nearest.
    """
    rule = "best" if len(objectives) == 1 else "front"
    if number is not None:
        _named(study, records, number)
        return Selection(trial=number, rule="trial", objectives=objectives)
    _require_eligible(study, records, objectives, constraints)
    if limits:
        chosen = within(records, objectives, limits)
        if chosen is None:
            raise InputError(_nearest(study, [one for one in records if one.eligible], limits.constraints))
        given = {name: value for name, value in vars(limits).items() if value is not None}
        return Selection(trial=chosen.trial, rule="limits", objectives=objectives, limits=given)
    if confirmed is not None:
        return Selection(trial=confirmed, rule="confirmed", objectives=objectives)
    chosen = best_record(records, objectives)
    assert chosen is not None
    return Selection(trial=chosen.trial, rule=rule, objectives=objectives)


def choose_front(
    study: str,
    records: Sequence[TrialRecord],
    objectives: Mapping[str, str],
    constraints: Sequence[Constraint] = (),
) -> list[Selection]:
    """Every point of the Pareto front.

    Raises:
        InputError: no trial is eligible; says which comes nearest.
    """
    _require_eligible(study, records, objectives, constraints)
    compared = front_objectives(objectives)
    return [
        Selection(trial=one.trial, rule="pareto", objectives=compared) for one in front(records, compared)
    ]


def _named(study: str, records: Sequence[TrialRecord], number: int) -> None:
    if not 0 <= number < len(records):
        known = f"it has 0 to {len(records) - 1}" if records else "it has none yet"
        raise InputError(f"study {study} has no trial {number}; {known}")
    if records[number].outcome != Outcome.COMPLETE:
        raise InputError(
            f"trial {number} is {records[number].outcome}; only a complete trial can be exported"
        )


def _require_eligible(
    study: str,
    records: Sequence[TrialRecord],
    objectives: Mapping[str, str],
    constraints: Sequence[Constraint],
) -> None:
    if any(one.eligible for one in records):
        return
    complete = [one for one in records if one.outcome == Outcome.COMPLETE]
    if complete:
        raise InputError(_nearest(study, complete, constraints))
    raise InputError(
        f"study {study} has no trial of the full budget within its constraints yet "
        f"({len(records)} trials so far); run it further"
    )


def _nearest(study: str, records: Sequence[TrialRecord], constraints: Sequence[Constraint]) -> str:
    """Which trial comes nearest to constraints that none meets."""
    rules = ", ".join(map(_rule, constraints))
    known = [one for one in records if all(rule.metric in one.metrics for rule in constraints)]
    if not known:
        missing = next(
            rule.metric for rule in constraints if not any(rule.metric in one.metrics for one in records)
        )
        return f"no trial of study {study} has measured {missing}, so none is known to keep {rules}; `proxytune confirm` measures its candidates, a constraint on it every trial"
    nearest = min(known, key=lambda one: (violation(constraints, one.metrics), one.trial))
    broken = ", ".join(
        f"{rule.metric} {nearest.metrics[rule.metric]:.4g}"
        for rule in constraints
        if rule.excess(nearest.metrics[rule.metric]) > 0
    )
    return (
        f"no complete trial of study {study} keeps {rules}; trial {nearest.trial} comes nearest with {broken} "
        "(export it with --trial)"
    )


def _rule(constraint: Constraint) -> str:
    return f"{constraint.metric} {'<=' if constraint.sign > 0 else '>='} {constraint.bound:g}"


def _minimised(record: TrialRecord, objectives: Mapping[str, str]) -> tuple[float, ...]:
    measured = {**record.metrics, **record.values}
    signed = (
        measured.get(name, math.nan) * (1 if direction == "minimize" else -1)
        for name, direction in objectives.items()
    )
    return tuple(value if math.isfinite(value) else math.inf for value in signed)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return tuple(one) != tuple(other) and all(x <= y for x, y in zip(one, other, strict=True))
