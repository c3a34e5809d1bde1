"""The winner of a study and the rule that chose it. All code that names a winner uses this module."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxytune.tuning.spec import ranking
from proxytune.tuning.spec.constraints import feasible
from proxytune.tuning.spec.ranking import BEST_SEARCH_VALUE
from proxytune.tuning.store.attributes import END
from proxytune.tuning.store.confirmation import Confirmation, read_confirmation
from proxytune.tuning.store.stored_study import StoredStudy


@dataclass(frozen=True)
class Winner:
    """A trial's number, and the rule that chose it."""

    trial: int
    rule: str  # "best search value" | "confirmed mean over <n> fresh seeds"


def eligible(study: StoredStudy) -> dict[int, Mapping[str, float]]:
    """The metrics of every eligible trial, by number: trained to the full budget and within the constraints.

    Raises:
        StorageError: the storage does not respond.
    """
    complete = {
        trial.number: trial.user_attrs[END]["metrics"]
        for trial in study.trials()
        if trial.state.name == "COMPLETE" and END in trial.user_attrs
    }
    return {
        number: metrics for number, metrics in complete.items() if feasible(study.spec.constraints, metrics)
    }


def winner(study: StoredStudy) -> Winner | None:
    """The winner of the confirmation, or of the search if there is no confirmation; None: no trial is eligible.

    Raises:
        StorageError: the storage does not respond.
    """
    return chosen(eligible(study), study.spec.search.objectives, read_confirmation(study))


def chosen(
    points: ranking.Points, objectives: ranking.Objectives, confirmation: Confirmation | None
) -> Winner | None:
    """`winner`, from the eligible trials' metrics."""
    if confirmation is not None:
        return Winner(confirmation.winner, confirmation.rule)
    number = ranking.best(points, objectives)
    return None if number is None else Winner(number, BEST_SEARCH_VALUE)


def leading(study: StoredStudy) -> Sequence[int]:
    """The number of the winner, or with several objectives the Pareto front by number; empty if no trial is eligible.

    Raises:
        StorageError: the storage does not respond.
    """
    if len(study.spec.search.objectives) > 1:
        return ranking.front(eligible(study), study.spec.search.objectives)
    found = winner(study)
    return [] if found is None else [found.trial]
