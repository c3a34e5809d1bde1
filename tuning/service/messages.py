"""The bodies of requests and responses, as in the OpenAPI document."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from proxytune.tuning.service.events import finite
from proxytune.tuning.spec.outcome import Outcome

Value = bool | int | float | str | None
Name = Annotated[str, Field(description="The study's name", examples=["listops-mini"])]
Params = Annotated[
    dict[str, Value],
    Field(
        description="Searched keys and their values",
        examples=[{"model.num_proxies": 64, "model.dropout": 0.1}],
    ),
]
Metrics = Annotated[
    dict[str, float | None],
    Field(
        description="The last report's metrics; null where a value is not finite",
        examples=[{"val_accuracy": 0.3085, "train_memory_mib_per_sequence": 3.1}],
    ),
]
_POINT: dict[str, JsonValue] = {
    "trial": 11,
    "values": {"val_accuracy": 0.3085},
    "params": {"model.num_proxies": 32, "model.dropout": 0.12},
    "metrics": {"val_accuracy": 0.3085, "train_memory_mib_per_sequence": 3.1},
}


class Point(BaseModel):
    """A feasible trial with the full budget of steps."""

    model_config = ConfigDict(json_schema_extra={"examples": [_POINT]})

    trial: int = Field(description="Trial number")
    values: dict[str, float] = Field(description="The objectives")
    params: Params
    metrics: Metrics


class StudyLine(BaseModel):
    """A study in the list."""

    study: Name
    trials: int = Field(description="So far", examples=[12])
    budget: int = Field(description="Trials it may take in all", examples=[12])
    outcomes: dict[str, int] = Field(
        description="Trials by outcome", examples=[{"complete": 2, "pruned": 10}]
    )
    driver: str | None = Field(description="The process that runs it", examples=["process 4711 on node7"])
    error: str | None = Field(
        description="Why the study cannot be read; the other fields are then empty", examples=[None]
    )


class StudyPage(BaseModel):
    """A page of the list of studies."""

    total: int = Field(examples=[1])
    studies: list[StudyLine]


class WinnerLine(BaseModel):
    """The winner's trial number, and the rule that chose it."""

    trial: int = Field(examples=[11])
    rule: str = Field(examples=["best search value", "confirmed mean over 5 fresh seeds"])


class StudyDetail(BaseModel):
    """The state of a study."""

    study: Name
    trials: int = Field(description="So far", examples=[12])
    budget: int = Field(description="Trials it may take in all", examples=[12])
    outcomes: dict[str, int] = Field(
        description="Trials by outcome", examples=[{"complete": 2, "pruned": 10}]
    )
    objectives: dict[str, str] = Field(examples=[{"val_accuracy": "maximize"}])
    winner: WinnerLine | None = Field(
        description="Null until a trial with the full budget of steps is feasible"
    )
    best: list[Point] = Field(description="The winner, or with several objectives the Pareto front")
    driver: str | None = Field(description="The process that runs it", examples=["process 4711 on node7"])
    waits: str | None = Field(
        description="The other studies of the cluster that the study waits for, and why",
        examples=["1 of 4 usable slots at priority 0: waits for listops of ann@node7 (priority 5)"],
    )
    seconds_left: float | None = Field(
        description="Until the study ends, as its driver estimates; null while there is no estimate",
        examples=[170.0],
    )
    job: str | None = Field(
        description="Status of its last job: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED, or unknown if the cluster does not respond",
        examples=["RUNNING"],
    )
    events_waiting: int = Field(description="Tracking events that are not yet in MLflow", examples=[0])
    tracking_error: str | None = Field(description="Why they could not be sent to MLflow", examples=[None])


class Trial(BaseModel):
    """One trial."""

    trial: int = Field(description="Trial number", examples=[11])
    outcome: Outcome
    params: Params
    step: int = Field(description="The last reported step", examples=[1200])
    metrics: Metrics
    reason: str = Field(description="Why it ended early", examples=["not among the best at step 200"])


class TrialPage(BaseModel):
    """A page of a study's trials, sorted by number."""

    total: int = Field(description="Number of trials, with the requested outcome if any", examples=[1])
    trials: list[Trial]


class Chosen(BaseModel):
    """The best trial, and the rule that chose it."""

    study: Name
    rule: str = Field(
        description="How it was chosen",
        examples=["confirmed mean over 5 fresh seeds"],
    )
    best: Point


class Front(BaseModel):
    """A Pareto front, sorted by trial number."""

    study: Name
    objectives: dict[str, str] = Field(
        description="Compared objectives and their directions",
        examples=[{"val_accuracy": "maximize", "train_memory_mib_per_sequence": "minimize"}],
    )
    points: list[Point]


class Submitted(BaseModel):
    """A study that has been submitted to the cluster."""

    study: Name
    job: str = Field(description="The id of its job on the cluster", examples=["proxytune-listops-mini-1"])
    created: bool = Field(description="False if the study existed and is resumed")
    budget: int = Field(description="Trials it may take in all", examples=[12])


class Done(BaseModel):
    """A recorded request, which the study's driver reads within seconds."""

    study: Name
    action: str = Field(examples=["pause"])
    who: str = Field(description="As recorded in the study's event log", examples=["alice@http"])
    job: str | None = Field(description="The job that was started, if the action starts one", examples=[None])


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Stop(_Body):
    """How to stop."""

    now: bool = Field(default=False, description="Interrupt running trials instead of waiting for them")
    trial: int | None = Field(
        default=None,
        ge=0,
        le=10**6,
        description="Stop only this trial; it cannot be resumed",
        examples=[None],
    )


class Extend(_Body):
    """A new budget."""

    trials: int = Field(ge=1, le=10**6, description="Total number of trials", examples=[30])


class Enqueue(_Body):
    """A configuration that runs before those that the sampler proposes; missing keys are sampled."""

    params: dict[str, Value] = Field(min_length=1, max_length=100, examples=[{"model.num_proxies": 64}])


class Confirm(_Body):
    """The size of a confirmation."""

    top: int = Field(default=5, ge=1, le=100, description="Number of candidates")
    seeds: int = Field(default=5, ge=2, le=100, description="Maximum number of fresh seeds per candidate")
    trials: list[Annotated[int, Field(ge=0, le=10**6)]] = Field(
        default=[], max_length=100, description="Further candidates, whatever their value"
    )


def point(winner: dict[str, Any]) -> Point:
    """Convert a winner of a summary."""
    return Point(**finite(winner))
