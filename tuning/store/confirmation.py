"""The result of `proxytune confirm` in the study's storage: candidates on fresh seeds, the winner, its test."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.store.stored_study import StoredStudy

COSTS = (MEMORY, "flops_per_sequence")
CONFIRMATION = "confirmation"  # user attribute of the study: Confirmation.to_json()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One configuration of the search, trained again from several fresh seeds."""

    trial: int  # its number in the study
    params: dict[str, Any]  # the searched keys and their values
    search_value: float  # the objective in the search: optimistic, since it was chosen for it
    seeds: tuple[int, ...]  # the fresh seeds it was trained from
    values: tuple[float, ...]  # the objective with each of them
    mean: float | None  # of `values`; None: none finished
    interval: tuple[float, float] | None  # 95 % confidence for the mean over seeds; None below two seeds
    eliminated_after: int | None  # seeds after which it got no more; None: it stayed to the end
    reason: str  # why it was eliminated, or ""
    metrics: dict[str, float]  # the last report's metrics, each the mean over the seeds
    efficiency: dict[
        str, float
    ]  # predicted costs and speeds measured on an exclusive slot (trial/efficiency.py)

    @property
    def cost(self) -> tuple[float, ...]:
        """What decides between tied candidates: memory of training, then FLOPs; infinity where it is unknown."""
        return tuple(self.efficiency.get(name, math.inf) for name in COSTS)


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """The winner's confirmed models on the test split."""

    __test__ = False  # pytest: not a test class

    trial: int
    seeds: tuple[int, ...]
    values: tuple[float, ...]  # accuracy of the model of each seed, 0 to 1
    mean: float
    interval: tuple[float, float] | None  # 95 % over seeds, on this one test split
    num_examples: int
    openings: int  # how often this study has opened its test split, this time included; above 1: say so
    opened_at: str  # UTC, ISO 8601
    opened_by: str


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """A finished confirmation."""

    study: str
    objective: str  # the study's first one, by which the winner is chosen
    direction: str  # maximize | minimize
    seeds: tuple[int, ...]  # all that a candidate could get
    candidates: tuple[Candidate, ...]  # best confirmed mean first, the eliminated last
    winner: int  # a trial's number
    tied: tuple[int, ...]  # not distinguishable from the best mean, the winner included; one: no tie
    gap: float  # the winner's curse: by how much the search's score was better than the confirmed mean
    retrainings: int  # trained to the full budget or stopped on the way
    test: TestResult | None  # None: not opened

    @property
    def best(self) -> Candidate:
        """The winner."""
        return next(candidate for candidate in self.candidates if candidate.trial == self.winner)

    @property
    def tie_break(self) -> str:
        """What chose the winner from the tied candidates, in words; empty where there is no tie."""
        if len(self.tied) < 2:
            return ""
        equal = [one for one in self.candidates if one.trial in self.tied and one.cost == self.best.cost]
        if len(equal) == 1:
            return f"the cheapest of {len(self.tied)} tied"
        if len(equal) == len(self.tied):
            return f"the best mean of {len(self.tied)} tied at equal cost"
        return f"the best mean of the {len(equal)} cheapest of {len(self.tied)} tied"

    @property
    def rule(self) -> str:
        """How the winner was chosen, in words."""
        rule = f"confirmed mean over {len(self.best.seeds)} fresh seeds"
        return ", ".join(filter(None, [rule, self.tie_break]))

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON holds; `from_json` gives the same confirmation back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """A confirmation from what `to_json` gave, also after a way through JSON's text."""
        candidates = tuple(_built(Candidate, candidate) for candidate in values["candidates"])
        test = values["test"] and stored_test(values["test"])
        fields = dict(values) | {"candidates": candidates, "test": test}
        return cls(**fields | {name: tuple(values[name]) for name in ("seeds", "tied")})


def read_confirmation(study: StoredStudy) -> Confirmation | None:
    """The study's confirmation, if it has been confirmed.

    Raises:
        StorageError: the storage does not answer.
    """
    stored = study.attributes.get(CONFIRMATION)
    return None if stored is None else Confirmation.from_json(stored)


def stored_test(values: Mapping[str, Any]) -> TestResult:
    """A test result from its fields, lists being tuples."""
    result: TestResult = _built(TestResult, values)
    return result


def _built(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A dataclass whose lists are tuples again."""
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )
