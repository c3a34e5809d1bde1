"""The values of a comparison: rows, differences between rows, notes."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A row's accuracy minus another row's, paired by training seed."""

    to: str  # configuration and study of the other row
    mean: float
    interval: tuple[float, float] | None  # 95 %, over the shared seeds; None for fewer than two
    seeds: int  # number of shared seeds


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration of one study."""

    study: str
    task: str  # with its options
    mechanism: str
    configuration: str  # other searched values that vary in the study, without the seed
    trial: int  # number of the first trial of this configuration
    accuracy: float  # on the validation split, mean over seeds, 0 to 1
    interval: tuple[float, float] | None  # 95 %, over seeds; None for fewer than two
    evaluation_error: (
        float | None
    )  # binomial standard error of one accuracy on the validation examples; None: their number is unknown
    by_seed: dict[int, float]  # the accuracy of each training seed
    basis: str  # where the accuracy comes from
    difference: Difference | None = None  # to the first row of the task
    test_accuracy: float | None = None  # mean over seeds
    test_interval: tuple[float, float] | None = None
    test_openings: int = 0
    steps: int
    batch_size: int
    memory_mib: float  # per sequence, training
    memory_is: str  # measured | predicted
    train_per_second: float | None  # sequences; measured alone on `device`
    inference_per_second: float | None
    device: str | None
    memory_to_softmax: float | None = None
    train_to_softmax: float | None = None
    inference_to_softmax: float | None = None

    @property
    def name(self) -> str:
        """Mechanism and configuration."""
        return ", ".join(filter(None, [self.mechanism, self.configuration]))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The rows, and notes on their interpretation."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return asdict(self)
