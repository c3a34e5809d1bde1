"""Retrains candidates from fresh seeds in a separate study, NAME.confirm, in which the candidates race.

Each of its trials is a point (candidate, seed). It has all features of a study: lease, checkpoints, resuming, steering,
MLflow. Points are assigned seed by seed, so waves complete in order, although a free slot may start the next wave. When a
candidate is eliminated, its queued points are removed and its running trials stop at their next update.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.confirm.candidates import SEED
from proxytune.tuning.confirm.racing import race
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.ranking import sign
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.store.attributes import BUDGET, CANDIDATE, END, WITH_SEED
from proxytune.tuning.store.summary import outcome_of
from proxytune.tuning.trial.update import TrialUpdate

SUFFIX = ".confirm"
_BROKEN = (
    Outcome.DIVERGED,
    Outcome.OUT_OF_MEMORY,
)  # outcomes that eliminate a candidate; other failures are retried

Point = tuple[int, int]
"""A candidate's trial number in the study, and a seed."""


@dataclass(frozen=True)
class Plan:
    """The candidates and the seeds to retrain them from."""

    # Trial number in the study -> its searched values; the best first, then those named by the user.
    candidates: Mapping[int, Mapping[str, Any]]
    seeds: tuple[int, ...]

    @property
    def points(self) -> list[Point]:
        """All points, ordered by seed, then by candidate."""
        return [(candidate, seed) for seed in self.seeds for candidate in self.candidates]


def retraining_spec(spec: StudySpec, plan: Plan) -> StudySpec:
    """The study that retrains the plan's points; apart from its budget it does not depend on the plan."""
    values = spec.model_dump(mode="json")
    space = {key: domain for key, domain in values["search"]["space"].items() if key != SEED}
    values["name"] = f"{spec.name}{SUFFIX}"
    values["search"] = {
        "space": space | {SEED: {"low": 0, "high": 2**31 - 1}},
        "objectives": values["search"]["objectives"],
        "constraints": values["search"]["constraints"],
        "sampler": {"name": "random"},  # unused: every trial is enqueued
        "stopping": {"name": "none"},
        "trials": len(plan.points),
    }
    return parse_study(values, where=f"study {values['name']}")


def retrainings(trials: Sequence[FrozenTrial]) -> dict[Point, FrozenTrial]:
    """The trial of each point: one with a final outcome, otherwise one that is pending."""
    found: dict[Point, FrozenTrial] = {}
    for trial in trials:
        if CANDIDATE not in trial.user_attrs:  # enqueued by a user
            continue
        point: Point = (trial.user_attrs[CANDIDATE], trial.user_attrs[WITH_SEED])
        pending = not trial.state.is_finished() and END not in trial.user_attrs
        if _decided(trial) or pending:
            known = found.get(point)
            if known is None or not _decided(known):
                found[point] = trial
    return found


def _decided(trial: FrozenTrial) -> bool:
    return outcome_of(trial) in (Outcome.COMPLETE, *_BROKEN)


def measured(
    plan: Plan, trials: Mapping[Point, FrozenTrial], objectives: Mapping[str, str]
) -> dict[int, list[list[float] | None]]:
    """The input of `race`: for each candidate and seed the objectives, higher is better; NaN if it diverged."""

    def values(point: Point) -> list[float] | None:
        trial = trials.get(point)
        if trial is None or not _decided(trial):
            return None
        if outcome_of(trial) in _BROKEN:
            return [math.nan] * len(objectives)
        metrics = trial.user_attrs[END]["metrics"]
        return [-sign(direction) * metrics[name] for name, direction in objectives.items()]

    return {number: [values((number, seed)) for seed in plan.seeds] for number in plan.candidates}


class Race(StudyController):
    """The controller of the retrainings."""

    def __init__(self, plan: Plan, *rest: Any) -> None:
        super().__init__(*rest)
        self._plan = plan
        self._points: dict[int, Point] = {}  # by number of the retraining
        self._out: dict[int, int] = {}  # eliminated candidate -> number of seeds before its elimination

    def reconcile(self) -> None:
        """Also enqueue missing points of the plan and remove points that are not part of it."""
        trials = retrainings(self._study.get_trials(deepcopy=False))
        out = race(measured(self._plan, trials, self._spec.search.objectives))
        for point in self._plan.points:
            if point[0] not in out and point not in trials:
                params = dict(self._plan.candidates[point[0]]) | {SEED: point[1]}
                self._study.enqueue_trial(params, user_attrs={CANDIDATE: point[0], WITH_SEED: point[1]})
        super().reconcile()
        for trial in self._study.get_trials(deepcopy=False):
            if CANDIDATE in trial.user_attrs:
                self._points[trial.number] = (trial.user_attrs[CANDIDATE], trial.user_attrs[WITH_SEED])
        self._study.set_user_attr(BUDGET, len(self._study.get_trials(deepcopy=False)))
        self._eliminate()

    def receive(self, number: int, update: TrialUpdate, where: Mapping[str, Any]) -> bool:
        stop = super().receive(number, update, where)
        candidate, _ = self._points.get(number, (None, None))
        if not stop and candidate in self._out:
            self._end(number, Outcome.PRUNED, self._reason(candidate))
            return True
        return stop

    def _end(self, number: int, outcome: Outcome, reason: str) -> None:
        super()._end(number, outcome, reason)
        self._eliminate()

    def _eliminate(self) -> None:
        """Update the eliminations; remove points of eliminated candidates and of earlier plans from the queue."""
        trials = self._study.get_trials(deepcopy=False)
        values = measured(self._plan, retrainings(trials), self._spec.search.objectives)
        before, self._out = self._out, race(values)
        self.notes += [self._reason(number) for number in self._out if number not in before]
        wanted = {point for point in self._plan.points if point[0] not in self._out}
        for trial in trials:
            point = self._points.get(trial.number)
            if trial.state != TrialState.WAITING or point is None:
                continue
            if point not in wanted or END in trial.user_attrs:
                reason = self._reason(point[0]) if point[0] in self._out else "not part of this confirmation"
                self._withdraw(trial, reason)

    def _reason(self, candidate: int) -> str:
        return f"candidate {candidate} is eliminated after {self._out[candidate]} seeds"

    def _withdraw(self, trial: FrozenTrial, reason: str) -> None:
        """End a waiting trial. If the driver is killed in between, the next driver finds the END attribute and finishes."""
        trial_id = self._trial_id(trial.number)
        step = max(trial.intermediate_values, default=0)
        end = {"outcome": Outcome.PRUNED, "reason": reason, "step": step, "metrics": {}}
        if END not in trial.user_attrs:
            self._storage.set_trial_user_attr(trial_id, END, end)
            self.limits.started += 1
        self._storage.set_trial_state_values(trial_id, TrialState.PRUNED)
        if trial.datetime_start is not None:  # it has a run in MLflow
            self._end_event(trial.number, end)
