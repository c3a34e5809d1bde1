"""The state of a study: trials by outcome, the budget, the winner."""

from dataclasses import asdict
from typing import Any

from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.search import Search
from proxytune.tuning.store.attributes import END, SECONDS, SECONDS_LEFT, WAITS, StoredTrial
from proxytune.tuning.store.request import Kind
from proxytune.tuning.store.stored_study import StoredStudy
from proxytune.tuning.store.winner import leading, winner


def summary(study: StoredStudy) -> dict[str, Any]:
    """Trials by outcome, the budget, the winner and its rule, and parameters and metrics of the winner or Pareto front."""
    best = leading(study)  # read before the trials, so that `trials` contains every trial in it
    trials = study.trials()
    outcomes: dict[str, int] = {}
    paused_by = study.requests.holder_of(Kind.PAUSE, Kind.RESUME)
    for trial in trials:
        outcome = outcome_of(trial, paused=paused_by is not None)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    found = winner(study)
    return {
        "study": study.name,
        "trials": len(trials),
        "budget": study.budget,
        "outcomes": outcomes,
        "paused_by": paused_by,
        "waits": waits(study),
        "seconds_left": seconds_left(study),
        "ended_because": study.ended_because,
        "objectives": dict(study.spec.search.objectives),
        "winner": None if found is None else asdict(found),
        "best": [
            {
                "trial": number,
                "values": dict(zip(study.spec.search.objectives, trials[number].values or (), strict=True)),
                "params": trials[number].params,
                "metrics": trials[number].user_attrs[END]["metrics"],
            }
            for number in best
        ],
    }


def spent_limit(study: StoredStudy, search: Search, budget: int) -> tuple[str, float, float] | None:
    """The first limit of `search` that the study has reached: its key, what is spent, the limit; None: there is none."""
    ended = [trial.user_attrs[END] for trial in study.trials() if END in trial.user_attrs]
    for key, spent, limit in (
        ("trials", len(ended), budget),
        ("max_steps", sum(end["step"] for end in ended), search.max_steps),
        ("max_seconds", float(study.attributes.get(SECONDS, 0.0)), search.max_seconds),
    ):
        if limit is not None and spent >= limit:
            return key, spent, limit
    return None


def is_finished(study: StoredStudy) -> bool:
    """Whether the study has ended by its budget or by `stop_when`."""
    return bool(study.ended_because or spent_limit(study, study.spec.search, study.budget))


def waits(study: StoredStudy) -> str | None:
    """The other studies whose slots a running study waits for, and why; None if it does not wait or does not run."""
    reason: str = study.attributes.get(WAITS, "")
    return reason if reason and study.driver() is not None else None


def seconds_left(study: StoredStudy) -> float | None:
    """Seconds until the study's end, as estimated by its driver; None: not running, or not estimated yet."""
    left: float | None = study.attributes.get(SECONDS_LEFT)
    return left if left is not None and study.driver() is not None else None


def trial_row(trial: StoredTrial, objective: str) -> dict[str, Any]:
    """One trial as plain values: outcome, parameters, last step and metrics, reason.

    objective: the metric that a trial without an end reported to Optuna.
    """
    step, values = trial.last_step or 0, trial.intermediate_values
    unended = {"step": step, "metrics": {objective: values[step]} if values else {}, "reason": ""}
    end: dict[str, Any] = trial.user_attrs.get(END, unended)
    return {"trial": trial.number, "outcome": outcome_of(trial), "params": trial.params} | end


def outcome_of(trial: StoredTrial, paused: bool = False) -> Outcome:
    """The outcome of a trial, or its current state; `paused`: its study is paused."""
    if END in trial.user_attrs:
        return Outcome(trial.user_attrs[END]["outcome"])
    if trial.state.name == "WAITING":
        if trial.datetime_start is None:
            return Outcome.QUEUED
        return Outcome.PAUSED if paused else Outcome.INTERRUPTED
    return Outcome(trial.state.name.lower().replace("fail", "failed"))
