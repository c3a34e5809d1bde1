"""Predicts time, steps and memory of a study by running its controller in virtual time on random learning curves."""

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
TRIALS_SIMULATED = 1000
"""Approximate number of trials over all draws, within those bounds: an ask takes 10 ms or more."""
START_PROCESSES = 3.0
"""Start time of a study in units of one process start: the driver's imports, Ray, the first workers."""
_PREDICTED = ("parameters", "flops_per_sequence", "train_memory_mib_per_sequence")


@dataclass(frozen=True)
class Interval:
    """The median over the draws and the bounds of their central 90 %."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Any) -> "Interval":
        low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Plan:
    """The predicted cost of a study.

    seconds: from the call of `run` to the end of the last trial. slot_hours: seconds / 3600 times the slots. trials: the
    number of trials trained up to each rung and to the full budget, by step. memory_mib: memory of the largest trial's
    process. busy: fraction of the slots' time spent training. step_milliseconds: over the trials of all draws.
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
    """Reads a trial's predicted profile from its cost, because computing it takes half a second."""

    costs: Costs

    def _profile(self, spec: TrialSpec, params: Mapping[str, Any]) -> dict[str, float]:
        cost = asdict(self.costs.of(params))
        return {name: cost[name] for name in _PREDICTED}


class PlannedStudy(VirtualStudy):
    """A study with random reports.

    Cost metrics (memory, speed, ...) are those of the configuration. All other objectives follow the drawn curve, and
    constraints on other metrics are assumed to hold.
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
    """Simulate the study several times with different random curves.

    Args:
        spec: the study, simulated as a new study.
        costs: costs of its configurations.
        slots: number of concurrent trials.
        start: seconds from the call of `run` to the start of the first trial.
        progress: called with a message before each simulation.

    Raises:
        InputError: `search.warm_start` names a study that does not exist, or no configuration satisfies the constraints.
    """
    draws = min(MOST_DRAWS, max(FEWEST_DRAWS, TRIALS_SIMULATED // spec.search.trials))
    simulated = []
    for seed in range(draws):
        progress(f"simulating the study, draw {seed + 1} of {draws}")
        simulated.append(_simulate(spec, costs, slots, start, seed))
    rungs = (*spec.rung_steps(), int(spec.training["steps"]))
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # with torch, as a trial's process
    seconds = np.array([draw.seconds for draw in simulated])
    steps = [1000 * step for draw in simulated for step in draw.step_seconds]
    if not steps:
        raise InputError(
            "search.constraints: no configuration that the sampler proposed satisfies them; nothing would be trained"
        )
    return Plan(
        study=spec.name,
        slots=slots,
        draws=draws,
        seconds=Interval.of(seconds),
        slot_hours=Interval.of(seconds * slots / 3600),
        steps=Interval.of([sum(draw.reached) for draw in simulated]),
        trials={
            rung: Interval.of([sum(step >= rung for step in draw.reached) for draw in simulated])
            for rung in rungs
        },
        memory_mib=Interval.of([own + draw.memory_mib for draw in simulated]),
        busy=Interval.of([draw.busy_seconds / (draw.seconds * slots) for draw in simulated]),
        step_milliseconds=Interval.of(steps),
    )


@dataclass(frozen=True)
class _Simulated:
    """One draw: its duration, and its trials' last steps, seconds per step and largest memory."""

    seconds: float
    busy_seconds: float
    reached: list[int]
    step_seconds: list[float]
    memory_mib: float


def _simulate(spec: StudySpec, costs: Costs, slots: int, start: float, seed: int) -> _Simulated:
    draw, known = Draw(spec, seed), []

    def curve(params: Mapping[str, Any]) -> DrawnCurve:
        cost = costs.of(params)
        known.append(cost)
        return draw.curve(params, spec.trial(params).training, cost)

    study = PlannedStudy(spec, costs)
    workers = Workers(study, curve, slots, start)
    while workers.next_time is not None:
        workers.step()
    return _Simulated(
        seconds=study.now,
        busy_seconds=workers.busy_seconds,
        reached=list(study.reached.values()),
        step_seconds=[cost.step for cost in known],
        memory_mib=max((cost.memory_mib for cost in known), default=0.0),
    )
