"""What a study will take: its own controller in virtual time, over random learning curves."""

import resource
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from proxytune.tuning.errors import InputError
from proxytune.tuning.plan.costs import Cost, Costs
from proxytune.tuning.plan.curves import Draw, DrawnCurve, report_steps
from proxytune.tuning.plan.virtual_study import VirtualStudy
from proxytune.tuning.plan.workers import Workers
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.ranking import sign
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.trial_spec import TrialSpec

MOST_DRAWS, FEWEST_DRAWS = 30, 5
TRIALS_PLAYED = 1000
"""About how many trials all draws play together, between those bounds: an ask takes 10 ms and more."""
START_PROCESSES = 3.0
"""The start of a study in starts of one process: the driver's imports, Ray, the first workers."""
_PREDICTED = ("parameters", "flops_per_sequence", "train_memory_mib_per_sequence")


@dataclass(frozen=True)
class Interval:
    """The median over the draws, and the ends between which 90 % of them lie."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Any) -> "Interval":
        low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Plan:
    """What a study is predicted to take.

    seconds: from the call of `run` to the end of the last trial. slot_hours: that times the slots. trials: by step, how
    many trials are trained up to each rung and to the full budget. memory_mib: of the largest trial's process.
    busy: share of the slots' time in which they train. step_milliseconds: over the trials of all draws.
    """

    study: str
    slots: int
    draws: int
    seconds: Interval
    slot_hours: Interval
    steps: Interval
    trials: dict[int, Interval]
    memory_mib: Interval
    busy: Interval
    step_milliseconds: Interval

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Controller(StudyController):
    """Takes what is predicted of a trial from its costs: a prediction takes half a second."""

    costs: Costs

    def _profile(self, spec: TrialSpec, params: Mapping[str, Any]) -> dict[str, float]:
        cost = asdict(self.costs.of(params))
        return {name: cost[name] for name in _PREDICTED}


class PlannedStudy(VirtualStudy):
    """A study whose reports are drawn.

    Objectives of cost (memory, speed, ...) are those of the configuration; all others follow the drawn curve, and
    constraints on them are taken to hold.
    """

    def __init__(self, spec: StudySpec, costs: Costs) -> None:
        controller = type("Controller", (_Controller,), {"costs": costs})
        super().__init__(spec, controller=controller)
        self._spec, self._costs = spec, costs
        self.reached: dict[int, int] = {}  # the last step of each trial

    def report(self, trial: int, report: int, value: float, seconds: float) -> tuple[int, dict[str, float]]:
        live = self.controller.live[trial]
        step = report_steps(live.spec.training)[report]
        self.reached[trial] = step
        known = _known(self._costs.of(live.params), live.spec)
        drawn = {name: -sign(direction) * value for name, direction in self._spec.search.objectives.items()}
        held = {constraint.metric: constraint.bound for constraint in self._spec.constraints}
        return step, held | drawn | known | {"seconds": seconds}


def _known(cost: Cost, spec: TrialSpec) -> dict[str, float]:
    speed = int(spec.training["batch_size"]) / cost.step
    measured = {"train_sequences_per_second": speed, "inference_sequences_per_second": 3 * speed}
    return measured | {name: getattr(cost, name) for name in _PREDICTED}


def make_plan(
    spec: StudySpec,
    costs: Costs,
    slots: int,
    start: float,
    progress: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Play the study some times, each with other curves.

    Args:
        spec: the study, taken as a new one.
        costs: of its configurations.
        slots: how many trials run at once.
        start: seconds from the call of `run` to the first trial's start.

    Raises:
        InputError: `search.warm_start` names a study that is not there, or no configuration keeps the constraints.
    """
    draws = min(MOST_DRAWS, max(FEWEST_DRAWS, TRIALS_PLAYED // spec.search.trials))
    played = []
    for seed in range(draws):
        progress(f"playing the study, draw {seed + 1} of {draws}")
        played.append(_play(spec, costs, slots, start, seed))
    rungs = (*spec.rung_steps(), int(spec.training["steps"]))
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # with torch, as a trial's process
    seconds = np.array([one.seconds for one in played])
    steps = [1000 * step for one in played for step in one.step_seconds]
    if not steps:
        raise InputError(
            "search.constraints: no configuration that the sampler proposed keeps them; nothing would be trained"
        )
    return Plan(
        study=spec.name,
        slots=slots,
        draws=draws,
        seconds=Interval.of(seconds),
        slot_hours=Interval.of(seconds * slots / 3600),
        steps=Interval.of([sum(one.reached) for one in played]),
        trials={
            rung: Interval.of([sum(step >= rung for step in one.reached) for one in played]) for rung in rungs
        },
        memory_mib=Interval.of([own + one.memory_mib for one in played]),
        busy=Interval.of([one.busy_seconds / (one.seconds * slots) for one in played]),
        step_milliseconds=Interval.of(steps),
    )


@dataclass(frozen=True)
class _Played:
    """One draw: its end, and of its trials the last steps, the seconds a step and the largest memory."""

    seconds: float
    busy_seconds: float
    reached: list[int]
    step_seconds: list[float]
    memory_mib: float


def _play(spec: StudySpec, costs: Costs, slots: int, start: float, seed: int) -> _Played:
    draw, known = Draw(spec, seed), []

    def curve(params: Mapping[str, Any]) -> DrawnCurve:
        cost = costs.of(params)
        known.append(cost)
        return draw.curve(params, spec.trial(params).training, cost)

    study = PlannedStudy(spec, costs)
    workers = Workers(study, curve, slots, start)
    while workers.next_time is not None:
        workers.step()
    return _Played(
        seconds=study.now,
        busy_seconds=workers.busy_seconds,
        reached=list(study.reached.values()),
        step_seconds=[cost.step for cost in known],
        memory_mib=max((cost.memory_mib for cost in known), default=0.0),
    )
