"""A study's trials, read from its journal: times, workers, reports and outcomes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.errors import InputError
from proxytune.tuning.journal.counters import Counters
from proxytune.tuning.journal.events import (
    Confirmed,
    Event,
    Paused,
    Reported,
    Resumed,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialStarted,
)
from proxytune.tuning.journal.reading import read_all
from proxytune.tuning.spec.constraints import excesses, parse_constraints
from proxytune.tuning.spec.outcome import Outcome, StudyStatus
from proxytune.tuning.spec.space import distribution_of


@dataclass
class Placement:
    """A trial's time on one worker, in Unix milliseconds."""

    start_ms: int
    end_ms: int
    worker: str = "unknown (no report)"


@dataclass
class TrialHistory:
    """One trial, reconstructed from its events."""

    number: int
    params: dict[str, Any]
    outcome: Outcome = Outcome.RUNNING
    reason: str = ""
    step: int = 0
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # metric -> (step, value)
    last: dict[str, float] = field(default_factory=dict)
    placements: list[Placement] = field(default_factory=list)


@dataclass
class History:
    """A whole study."""

    name: str
    spec: Mapping[str, Any]
    facts: Mapping[str, Any]
    counters: Counters
    trials: dict[int, TrialHistory]
    status: StudyStatus = StudyStatus.RUNNING
    reason: str = ""  # of its end
    confirmation: Confirmed | None = None
    problems: list[str] = field(default_factory=list)  # records of the journal that could not be read
    start_ms: int = 0  # Unix time of the first event
    last_ms: int = 0  # Unix time of the last event

    @property
    def objectives(self) -> dict[str, str]:
        """Each objective and its direction, maximize or minimize."""
        return self.counters.directions

    @property
    def domains(self) -> dict[str, Any]:
        """The search space: the domain of each searched parameter."""
        return dict(self.spec.get("search", {}).get("space", {}))

    @property
    def winner(self) -> dict[str, Any]:
        """`trial` and `rule` of the winner; empty while no trial is eligible."""
        return self.counters.winner

    def eligible(self) -> dict[int, dict[str, float]]:
        """The last metrics of the eligible trials, by number: complete and within the constraints."""
        return {
            trial.number: trial.last
            for trial in self.trials.values()
            if trial.outcome is Outcome.COMPLETE
            and next(iter(self.objectives), "") in trial.last
            and self.counters.feasible(trial.last)
        }

    def with_metric(self, name: str) -> list[TrialHistory]:
        """The trials whose last value of the metric is finite."""
        return [one for one in self.trials.values() if math.isfinite(one.last.get(name, math.nan))]

    def optuna_study(self, objectives: Mapping[str, str]) -> optuna.Study:
        """The trials as an in-memory Optuna study with these objectives, for Optuna's importances and contour plots.

        A trial without a value for an objective is added as failed.
        """
        study = optuna.create_study(
            directions=[StudyDirection[direction.upper()] for direction in objectives.values()],
            study_name=self.name,
        )
        for number in range(max(self.trials, default=-1) + 1):
            trial = self.trials.get(number)
            study.add_trial(
                optuna.trial.create_trial(state=TrialState.FAIL)
                if trial is None
                else self._frozen(trial, self.domains, list(objectives))
            )
        return study

    def _frozen(self, trial: TrialHistory, domains: Mapping[str, Any], objectives: list[str]) -> FrozenTrial:
        values = [trial.last[name] for name in objectives if not math.isnan(trial.last.get(name, math.nan))]
        state = TrialState[trial.outcome.optuna_state]
        if state == TrialState.WAITING:  # it has started, which WAITING would deny
            state = TrialState.FAIL
        if state == TrialState.COMPLETE and len(values) < len(objectives):
            state = TrialState.FAIL
        params = {key: value for key, value in trial.params.items() if key in domains}
        frozen = optuna.trial.create_trial(
            state=state,
            values=values if state == TrialState.COMPLETE else None,
            params=params,
            distributions={key: distribution_of(domains[key], value) for key, value in params.items()},
            intermediate_values=dict(trial.curves.get(objectives[0], [])) if len(objectives) == 1 else None,
        )
        for metric, excess in excesses(parse_constraints(self.counters.constraints), trial.last).items():
            frozen.set_constraint(metric, excess)
        return frozen


def read_history(folder: Path) -> History:
    """Read the journal in an outbox folder.

    Raises:
        InputError: the journal contains no study.
    """
    history = History("", {}, {}, Counters(), {})
    for portion in read_all(folder):
        history.problems += portion.problems
        for event in portion.events:
            history.counters.fold(event)
            _add(history, event)
    if not history.spec:
        raise InputError(f"{folder} contains no events of a study; run it first")
    return history


def _add(history: History, event: Event) -> None:
    history.last_ms = max(history.last_ms, getattr(event, "time_ms", 0))
    match event:
        case StudyStarted():
            history.name, history.spec, history.facts = event.study, event.spec, event.facts
            history.start_ms = history.start_ms or event.time_ms
            history.status, history.reason = StudyStatus.RUNNING, ""
        case StudyEnded():
            history.status, history.reason = event.status, event.reason
        case Confirmed():
            history.confirmation = event
        case Paused():
            history.status = StudyStatus.PAUSED
        case Resumed():
            history.status = StudyStatus.RUNNING
        case TrialStarted():
            trial = history.trials.setdefault(event.trial, TrialHistory(event.trial, event.params))
            trial.outcome = Outcome.RUNNING
            trial.placements.append(Placement(event.time_ms, event.time_ms))
        case Reported() | TrialEnded() if event.trial in history.trials:
            _add_report(history.trials[event.trial], event)


def _add_report(trial: TrialHistory, event: Reported | TrialEnded) -> None:
    trial.step = max(trial.step, event.step)
    for metric, value in event.metrics.items():
        trial.curves.setdefault(metric, []).append((event.step, value))
        trial.last[metric] = value
    placement = trial.placements[-1]
    placement.end_ms = event.time_ms
    if isinstance(event, TrialEnded):
        trial.outcome, trial.reason = event.outcome, event.reason
    elif event.node is not None:
        placement.worker = event.node if event.pid is None else f"{event.node} {event.pid}"
