"""The state table: how each event of a trial changes Optuna's storage and the journal."""

import json
import math
from collections import Counter

import pytest
from optuna.trial import TrialState

from proxytune.tuning.errors import StorageError
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.store.summary import outcome_of
from proxytune.tuning.store.winner import leading
from tests.tuning.search.driving import Driver


def test_complete_trial_stores_its_values_and_reports(spec) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    assert not driver.report(number, 10, 0.2)
    assert driver.report(number, 30, 0.4, outcome="complete")
    trial = driver.study.trials()[number]
    assert trial.state == TrialState.COMPLETE
    assert trial.values[0] == 0.4
    assert [event.step for event in driver.events("report")] == [10, 30]
    assert driver.events("end")[0].outcome == "complete"


def test_trial_stopped_at_a_rung_is_pruned_and_keeps_its_reports(spec) -> None:
    driver = Driver(spec)
    good, bad = driver.begin().number, driver.begin().number
    assert not driver.report(good, 10, 0.5)
    assert driver.report(bad, 10, 0.1)
    trial = driver.study.trials()[bad]
    assert trial.state == TrialState.PRUNED
    if len(spec.search.objectives) == 1:
        assert trial.intermediate_values == {10: 0.1}
    assert driver.events("end")[0].outcome == "pruned"
    assert bad not in leading(driver.study)


@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory", "failed"])
def test_failed_trial_has_no_values_and_keeps_its_reason(spec, outcome: str) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    assert driver.report(number, 5, outcome=outcome, reason="because")
    trial = driver.study.trials()[number]
    assert (trial.state, trial.values) == (TrialState.FAIL, None)
    assert outcome_of(trial) == outcome
    assert trial.user_attrs["end"]["reason"] == "because"


def test_full_disk_requeues_the_trial_and_stops_the_driver(spec) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    with pytest.raises(StorageError, match=f"trial {number} cannot write a checkpoint: /x: No space left"):
        driver.report(
            number, 5, outcome="interrupted", out_of_room=True, reason="/x: No space left on device"
        )
    trial = driver.study.trials()[number]
    assert (trial.state, trial.values) == (TrialState.WAITING, None)
    assert number not in driver.controller.live


def test_study_stored_without_a_newer_key_is_resumed(make_spec) -> None:
    spec = make_spec()
    study = begin_study(spec)
    stored = json.loads(study.optuna.user_attrs["spec"])
    del stored["training"]["compile"]
    study.optuna.set_user_attr("spec", json.dumps(stored))
    assert begin_study(spec).budget == spec.search.trials


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_complete_trial_with_a_non_finite_objective_is_diverged(spec, value: float) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    assert driver.report(number, 30, value, outcome="complete")
    assert outcome_of(driver.study.trials()[number]) == "diverged"


@pytest.mark.parametrize("step", [5, 10], ids=["between rungs", "at a rung"])
def test_non_finite_objective_ends_its_trial_immediately(spec, step: int) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    assert driver.report(number, step, math.nan)
    trial = driver.study.trials()[number]
    assert (trial.state, trial.values, outcome_of(trial)) == (TrialState.FAIL, None, "diverged")


def test_trial_of_a_lost_worker_fails_and_ignores_late_updates(spec) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    driver.controller.again(number)
    driver.controller.lost(number, "killed")
    assert outcome_of(driver.study.trials()[number]) == "failed"
    assert [event.attempt for event in driver.events("trial")] == [1, 2]
    assert driver.report(number, 10, 0.9)  # a late update of the lost worker is ignored
    assert outcome_of(driver.study.trials()[number]) == "failed"


def test_stopped_study_requeues_its_trials_and_resumes_them(spec) -> None:
    driver = Driver(spec)
    first, second = driver.begin(), driver.begin()
    driver.report(first.number, 10, 0.3)
    driver.controller.stop("SIGINT")
    assert driver.controller.next_trial() is None
    assert driver.report(first.number, 12)
    driver.controller.requeue_live()
    assert driver.states() == [TrialState.WAITING] * 2
    driver.crash()

    again = Driver(spec)
    assert [again.begin().number, again.begin().number] == [first.number, second.number]
    assert again.controller.live[first.number].attempt == 2
    assert again.controller.live[first.number].params == dict(again.study.trials()[0].params)


def test_trials_of_a_killed_driver_are_requeued_by_the_next_driver(spec) -> None:
    driver = Driver(spec)
    finished, running = driver.begin().number, driver.begin().number
    driver.report(finished, 30, 0.4, outcome="complete")
    driver.report(running, 10, 0.5)
    driver.crash()

    again = Driver(spec)
    assert again.states() == [TrialState.COMPLETE, TrialState.WAITING]
    assert again.begin().number == running
    again.report(running, 10, 0.1)  # repeated after the checkpoint: the first report is kept
    assert len(again.events("report")) == 2
    again.report(running, 30, 0.6, outcome="complete")
    assert again.study.trials()[running].values[0] == 0.6


def test_end_recorded_before_a_kill_is_told_to_optuna_at_the_next_start(spec, monkeypatch) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    monkeypatch.setattr(
        driver.study.optuna, "tell", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        driver.report(number, 30, 0.4, outcome="complete")
    driver.crash()
    again = Driver(spec)
    assert again.states() == [TrialState.COMPLETE]
    assert again.study.trials()[number].values[0] == 0.4
    assert Counter(event.outcome for event in again.events("end"))["complete"] == 1


def test_rungs_survive_a_resume(spec) -> None:
    driver = Driver(spec)
    good = driver.begin().number
    driver.report(good, 10, 0.9)
    driver.crash()
    again = Driver(spec)
    again.begin()
    new = again.begin().number
    assert again.report(new, 10, 0.5)  # compared with the entry of the earlier driver
    assert outcome_of(again.study.trials()[new]) == "pruned"


def test_hyperband_stops_only_trials_of_the_bracket_with_a_rung(make_spec) -> None:
    driver = Driver(make_spec("search.stopping={name: hyperband, min_steps: 10, reduction_factor: 3}"))
    numbers = [driver.begin().number for _ in range(4)]
    stopped = [driver.report(number, 10, 0.5 - 0.1 * number) for number in numbers]
    assert stopped == [False, False, True, False]  # only 0 and 2 are in the bracket with a rung
