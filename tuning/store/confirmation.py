"""The result of `proxytune confirm` in the study's storage: candidates on fresh seeds, winner, test result."""

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
    """One configuration of the search, retrained with several fresh seeds."""

    trial: int  # its number in the study
    params: dict[str, Any]  # the searched keys and their values
    search_value: float  # the objective in the search; optimistic, since the trial was selected by it
    seeds: tuple[int, ...]  # the fresh seeds
    values: tuple[float, ...]  # the objective with each seed
    mean: float | None  # of `values`; None: no training finished
    interval: tuple[float, float] | None  # 95 % confidence for the mean over seeds; None below two seeds
    eliminated_after: int | None  # number of seeds at its elimination; None: not eliminated
    reason: str  # of the elimination, or ""
    metrics: dict[str, float]  # metrics of the last report, each the mean over the seeds
    efficiency: dict[
        str, float
    ]  # predicted costs, and speeds measured on an exclusive slot (trial/efficiency.py)

    @property
    def cost(self) -> tuple[float, ...]:
        """The costs that break ties: training memory, then FLOPs; infinity where unknown."""
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
    openings: int  # how often this study has opened its test split, including this time
    opened_at: str  # UTC, ISO 8601
    opened_by: str


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """A finished confirmation."""

    study: str
    objective: str  # the study's first objective, by which the winner is chosen
    direction: str  # maximize | minimize
    seeds: tuple[int, ...]  # all fresh seeds
    candidates: tuple[Candidate, ...]  # best confirmed mean first, eliminated candidates last
    winner: int  # number of the trial
    tied: tuple[int, ...]  # candidates not distinguishable from the best mean, including the winner
    gap: float  # optimism of the search score: search value minus confirmed mean, signed so that positive is optimistic
    retrainings: int  # finished or stopped early
    test: TestResult | None  # None: the test split was not opened

    @property
    def best(self) -> Candidate:
        """The winner."""
        return next(candidate for candidate in self.candidates if candidate.trial == self.winner)

    @property
    def tie_break(self) -> str:
        """Description of how the tie was broken; empty if there is no tie."""
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
        """Description of how the winner was chosen."""
        rule = f"confirmed mean over {len(self.best.seeds)} fresh seeds"
        return ", ".join(filter(None, [rule, self.tie_break]))

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON. `from_json` restores the confirmation."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Restore a confirmation from the values of `to_json`, also after serialization to JSON."""
        candidates = tuple(_built(Candidate, candidate) for candidate in values["candidates"])
        test = values["test"] and stored_test(values["test"])
        fields = dict(values) | {"candidates": candidates, "test": test}
        return cls(**fields | {name: tuple(values[name]) for name in ("seeds", "tied")})


def read_confirmation(study: StoredStudy) -> Confirmation | None:
    """The study's confirmation; None if it is not confirmed.

    Raises:
        StorageError: the storage does not respond.
    """
    stored = study.attributes.get(CONFIRMATION)
    return None if stored is None else Confirmation.from_json(stored)


def stored_test(values: Mapping[str, Any]) -> TestResult:
    """Build a test result from its fields; lists become tuples."""
    result: TestResult = _built(TestResult, values)
    return result


def _built(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Build a dataclass from JSON values; lists become tuples."""
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )
