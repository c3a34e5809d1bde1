"""The export request, shared by the command, the Python API, the service, its client and verify."""

from typing import Any, Self

from pydantic import Field, model_validator

from proxytune.tuning.spec.constraints import Constraint
from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.spec.validation import Section, validated

THROUGHPUT = "train_sequences_per_second"


class Limits(Section):
    """Limits in addition to the study's constraints; None means no limit."""

    max_memory_mib: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description=f"Upper limit of {MEMORY}", examples=[40]
    )
    min_throughput: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description=f"Lower limit of {THROUGHPUT}", examples=[100]
    )

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set."""
        return self.model_dump(include={"max_memory_mib", "min_throughput"}, exclude_none=True)

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The limits as constraints on metrics."""
        bounds = ((MEMORY, 1, self.max_memory_mib), (THROUGHPUT, -1, self.min_throughput))
        return tuple(Constraint(metric, side, bound) for metric, side, bound in bounds if bound is not None)


class ExportRequest(Limits):
    """The trial to export: by number, the whole Pareto front, the best within limits, or by default the winner."""

    trial: int | None = Field(
        default=None, ge=0, le=10**6, description="A trial's number; default: the winner"
    )
    pareto: bool = Field(default=False, description="Every trial of the Pareto front instead")

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        given = {"trial": self.trial is not None, "pareto": self.pareto, "limits": bool(self.limits)}
        if sum(given.values()) > 1:
            names = " and ".join(name for name, is_given in given.items() if is_given)
            raise ValueError(f"{names} exclude each other (limits are max_memory_mib and min_throughput)")
        return self


THE_WINNER = ExportRequest()
"""The default request."""


def export_request(**values: Any) -> ExportRequest:
    """A validated request with these fields.

    Raises:
        InputError: a field is unknown or out of range, or two fields exclude each other.
    """
    return validated(ExportRequest, values, where="export")
