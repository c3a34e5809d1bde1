"""The bodies of requests and answers, as the OpenAPI document shows them."""

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
    """A trial of the full budget within the constraints."""

    model_config = ConfigDict(json_schema_extra={"examples": [_POINT]})

    trial: int = Field(description="Its number")
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
        description="Why it cannot be read; nothing else is known then", examples=[None]
    )


class StudyPage(BaseModel):
    """A part of the list of studies."""

    total: int = Field(examples=[1])
    studies: list[StudyLine]


class WinnerLine(BaseModel):
    """The winner's number, and by which rule it was chosen."""

    trial: int = Field(examples=[11])
    rule: str = Field(examples=["best search value", "confirmed mean over 5 fresh seeds"])


class StudyDetail(BaseModel):
    """How a study stands."""

    study: Name
    trials: int = Field(description="So far", examples=[12])
    budget: int = Field(description="Trials it may take in all", examples=[12])
    outcomes: dict[str, int] = Field(
        description="Trials by outcome", examples=[{"complete": 2, "pruned": 10}]
    )
    objectives: dict[str, str] = Field(examples=[{"val_accuracy": "maximize"}])
    winner: WinnerLine | None = Field(
        description="Null until a trial of the full budget is within the constraints"
    )
    best: list[Point] = Field(description="The winner, or with several objectives the Pareto front")
    driver: str | None = Field(description="The process that runs it", examples=["process 4711 on node7"])
    waits: str | None = Field(
        description="Which other studies of the cluster keep slots from it, and why",
        examples=["1 of 4 usable slots at priority 0: waits for listops of ann@node7 (priority 5)"],
    )
    seconds_left: float | None = Field(
        description="Until its end, as its driver estimates; null while it does not know",
        examples=[170.0],
    )
    job: str | None = Field(
        description="Its last job: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED, or unknown when the cluster does not answer",
        examples=["RUNNING"],
    )
    events_waiting: int = Field(description="Tracking events that MLflow lacks", examples=[0])
    tracking_error: str | None = Field(description="What stands between them and MLflow", examples=[None])


class Trial(BaseModel):
    """One trial."""

    trial: int = Field(description="Its number", examples=[11])
    outcome: Outcome
    params: Params
    step: int = Field(description="The last one reported", examples=[1200])
    metrics: Metrics
    reason: str = Field(description="Why it ended early", examples=["not among the best at step 200"])


class TrialPage(BaseModel):
    """A part of a study's trials, by number."""

    total: int = Field(description="With this outcome, if one was asked for", examples=[1])
    trials: list[Trial]


class Chosen(BaseModel):
    """The best trial, and why it is."""

    study: Name
    rule: str = Field(
        description="How it was chosen",
        examples=["confirmed mean over 5 fresh seeds"],
    )
    best: Point


class Front(BaseModel):
    """A Pareto front, by trial number."""

    study: Name
    objectives: dict[str, str] = Field(
        description="What was compared",
        examples=[{"val_accuracy": "maximize", "train_memory_mib_per_sequence": "minimize"}],
    )
    points: list[Point]


class Submitted(BaseModel):
    """A study that has been handed to the cluster."""

    study: Name
    job: str = Field(description="The id of its job on the cluster", examples=["proxytune-listops-mini-1"])
    created: bool = Field(description="False: it existed, and goes on")
    budget: int = Field(description="Trials it may take in all", examples=[12])


class Done(BaseModel):
    """A wish that the study's driver hears within seconds."""

    study: Name
    action: str = Field(examples=["pause"])
    who: str = Field(description="As the study's event log says it", examples=["alice@http"])
    job: str | None = Field(description="The job that was started, if the action starts one", examples=[None])


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Stop(_Body):
    """How to stop."""

    now: bool = Field(default=False, description="Interrupt running trials instead of waiting for them")
    trial: int | None = Field(
        default=None, ge=0, le=10**6, description="End this trial for good, and nothing else", examples=[None]
    )


class Extend(_Body):
    """A larger budget."""

    trials: int = Field(ge=1, le=10**6, description="The number of trials in all", examples=[30])


class Enqueue(_Body):
    """A configuration that goes before anything the sampler proposes; keys that are left out are sampled."""

    params: dict[str, Value] = Field(min_length=1, max_length=100, examples=[{"model.num_proxies": 64}])


class Confirm(_Body):
    """How much a confirmation takes."""

    top: int = Field(default=5, ge=1, le=100, description="Candidates")
    seeds: int = Field(default=5, ge=2, le=100, description="Fresh seeds of each, at most")


def point(winner: dict[str, Any]) -> Point:
    """A winner of a summary as a point."""
    return Point(**finite(winner))
