"""Callbacks of Ray Tune, forwarded to a real controller. Ray itself does not run."""

from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from proxytune.tuning.cluster.bridge import RayBridge, StudyScheduler, StudySearcher
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.store.steering import cancel_trial
from proxytune.tuning.trial.update import TrialUpdate


@pytest.fixture
def ray_side(make_spec):
    spec = make_spec()
    study = begin_study(spec)
    controller = StudyController(spec, study.optuna, study.storage, Outbox(spec.folder / "outbox"))
    controller.reconcile()
    bridge = RayBridge(controller, lambda: 1)
    return study, StudySearcher(bridge), StudyScheduler(bridge)


def end_with_error(scheduler, searcher, trial_id: str, config: dict, num_failures: int) -> None:
    """End a trial with an error, as Ray Tune's controller does."""
    trial = SimpleNamespace(trial_id=trial_id, config=config, num_failures=num_failures, max_failures=3)
    scheduler.on_trial_error(None, trial)
    searcher.on_trial_complete(trial_id, error=True)


def test_trial_of_a_dead_reused_worker_is_requeued(ray_side) -> None:
    """Ray ends such a trial at its first failure, regardless of max_failures."""
    study, searcher, scheduler = ray_side
    config = searcher.suggest("a")
    end_with_error(scheduler, searcher, "a", config, num_failures=1)
    assert study.trials()[0].state == TrialState.WAITING
    assert searcher.suggest("b")["number"] == config["number"]


def test_trial_that_no_worker_can_start_fails_after_max_failures(ray_side) -> None:
    study, searcher, scheduler = ray_side
    for attempt in "abcd":
        end_with_error(scheduler, searcher, attempt, searcher.suggest(attempt), num_failures=1)
    assert study.trials()[0].state == TrialState.FAIL
    assert searcher.suggest("e")["number"] == 1


def test_trial_that_lost_more_workers_than_max_failures_fails(ray_side) -> None:
    study, searcher, scheduler = ray_side
    end_with_error(scheduler, searcher, "a", searcher.suggest("a"), num_failures=4)
    assert study.trials()[0].state == TrialState.FAIL


def test_trial_is_cancelled_while_its_worker_starts(ray_side, monkeypatch) -> None:
    """The controller frees its slot immediately; the worker is stopped at its first report."""
    study, searcher, scheduler = ray_side
    config = searcher.suggest("a")
    cancel_trial(study, config["number"])
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    assert scheduler.choose_trial_to_run(SimpleNamespace(get_trials=list)) is None
    assert searcher.suggest("b")["number"] == config["number"] + 1
    assert study.trials()[config["number"]].state == TrialState.FAIL
    update = {"update": TrialUpdate(step=3, metrics=None, outcome="running").to_json()}
    trial = SimpleNamespace(trial_id="a", config=config)
    assert scheduler.on_trial_result(None, trial, update) == TrialScheduler.STOP
    searcher.on_trial_complete("a")
    assert study.trials()[config["number"]].user_attrs["end"]["step"] == 0
