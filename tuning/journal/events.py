"""Events of a study's journal: one validated type per kind, and a record with a checksum for each event.

A record is one line of JSON. Its last member ``crc32`` is the CRC-32 of the bytes before it, so that a damaged record
is detected and the line is still valid JSON. Records without a checksum come from journals of 0.1.0.
"""

import time
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from proxytune.tuning.spec.outcome import Outcome, StudyStatus

FORMAT = 2
"""Version of the journal's format; 1 had no checksums."""
Scalar = bool | int | float | str | None
_SEPARATOR = b',"crc32":"'
CHECKSUM_BYTES = len(_SEPARATOR) + len('01234567"}\n')
"""Bytes at the end of a record that hold its checksum."""


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class JournalStarted(_Record):
    """First record of a journal. id: identifies the journal and its runs in MLflow.

    study: id of its study; None: the journal was written before this field existed.
    """

    kind: Literal["journal"] = "journal"
    format: int = FORMAT
    id: str
    study: str | None = None


class _Timed(_Record):
    time_ms: int = Field(default_factory=now_ms)


class StudyStarted(_Timed):
    """A driver starts or resumes the study.

    spec: the resolved study file. facts: code, versions, hardware, data. budget: total number of trials; None: as in spec.
    """

    kind: Literal["study"] = "study"
    study: str
    spec: dict[str, Any]
    facts: dict[str, Any] = {}
    budget: int | None = None


class Resources(_Record):
    """CPU cores and GPUs (or a fraction of one) of a trial."""

    cpu: float = 0.0
    gpu: float = 0.0


class TrialStarted(_Timed):
    """A trial starts or resumes on a worker. attempt: counts from 1. config: its resolved configuration."""

    kind: Literal["trial"] = "trial"
    trial: int = Field(ge=0)
    params: dict[str, Scalar]
    attempt: int = 1
    config: dict[str, Any] | None = None
    resources: Resources | None = None


class Reported(_Timed):
    """Metrics of a trial after `step` optimizer steps, and where it runs."""

    kind: Literal["report"] = "report"
    trial: int = Field(ge=0)
    step: int = Field(ge=0)
    metrics: dict[str, float]
    node: str | None = None
    pid: int | None = None
    device: str | None = None


class TrialEnded(_Timed):
    """A trial ended, or was interrupted to be resumed later."""

    kind: Literal["end"] = "end"
    trial: int = Field(ge=0)
    step: int = Field(ge=0)
    outcome: Outcome
    reason: str = ""
    metrics: dict[str, float] = {}


class Noted(_Timed):
    """A line of the event log. who: the acting user; empty: the driver."""

    kind: Literal["log"] = "log"
    who: str = ""
    text: str


class Paused(_Timed):
    """A user paused the study."""

    kind: Literal["pause"] = "pause"
    who: str


class Resumed(_Timed):
    """A user resumed a paused study."""

    kind: Literal["resume"] = "resume"
    who: str


class BudgetChanged(_Timed):
    """A user changed the total number of trials."""

    kind: Literal["budget"] = "budget"
    who: str
    trials: int


class ConfirmedCandidate(_Record):
    """One candidate of a confirmation.

    seeds: training seeds and the objective's value of each. low, high: 95 % interval of the mean.
    """

    trial: int
    seeds: dict[int, float]
    mean: float
    low: float | None = None
    high: float | None = None


class TestedWinner(_Record):
    """Test result of the winner's models. low, high: 95 % interval over seeds; openings: how often the study opened it."""

    __test__ = False  # pytest: not a test class

    mean: float
    low: float | None = None
    high: float | None = None
    num_models: int
    num_examples: int
    openings: int


class Confirmed(_Timed):
    """A confirmation is complete. winner: number of the trial; rule: how it was chosen; test: None until it is tested."""

    kind: Literal["confirmation"] = "confirmation"
    objective: str
    candidates: tuple[ConfirmedCandidate, ...]
    winner: int
    rule: str
    test: TestedWinner | None = None


class StudyEnded(_Timed):
    """A driver ends."""

    kind: Literal["study_end"] = "study_end"
    status: StudyStatus
    reason: str = ""
    summary: dict[str, Any] = {}


TrialEvent = TrialStarted | Reported | TrialEnded
Event = (
    JournalStarted
    | StudyStarted
    | TrialStarted
    | Reported
    | TrialEnded
    | Noted
    | Paused
    | Resumed
    | BudgetChanged
    | Confirmed
    | StudyEnded
)
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


class BadRecord(ValueError):
    """A line of the journal is not a valid event; the message gives the reason."""


def encode(event: Event) -> bytes:
    """The event as a record: one line with its checksum."""
    body = event.model_dump_json(exclude_none=True).encode()[:-1]
    return body + _SEPARATOR + f'{zlib.crc32(body):08x}"}}\n'.encode()


def decode(line: bytes) -> Event:
    """The event of a record.

    Raises:
        BadRecord: wrong checksum, invalid JSON, unknown kind, or invalid field.
    """
    body, separator, end = line.rpartition(_SEPARATOR)
    if separator:
        if end[:8] != b"%08x" % zlib.crc32(body) or end[8:] != b'"}\n':
            raise BadRecord("its checksum is wrong")
        line = body + b"}"
    try:
        return _EVENT.validate_json(line)
    except ValidationError as error:
        raise BadRecord(_explain(error.errors(include_url=False))) from None


def _explain(errors: Sequence[Any]) -> str:
    first = errors[0]
    if first["type"] == "union_tag_invalid":
        return f"unknown kind {first['ctx']['tag']!r}"
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])
