"""Requests of other terminals to a running study: stop, pause, extend, enqueue, cancel."""

import pytest
from optuna.trial import TrialState

from proxytune.tuning.errors import InputError
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.steering import Share
from proxytune.tuning.store.steering import cancel_trial, enqueue, extend, pause, request_stop
from proxytune.tuning.store.summary import outcome_of
from tests.tuning.search.driving import Driver


def test_stop_lets_trials_end_and_stop_now_interrupts_them(spec, monkeypatch) -> None:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    driver = Driver(spec)
    first, second = driver.begin().number, driver.begin().number
    request_stop(driver.study, now=False)
    assert driver.controller.next_trial() is None
    assert not driver.report(first, 5)
    assert driver.report(first, 30, 0.4, outcome="complete")
    request_stop(driver.study, now=True)
    assert driver.report(second, 5)
    assert driver.states() == [TrialState.COMPLETE, TrialState.WAITING]
    assert [event.text for event in driver.events("log")] == ["stop", "stop now"]
    driver.crash()
    assert Driver(spec).begin().number == second


def test_extend_and_enqueue_take_effect_while_the_study_runs(make_spec, monkeypatch) -> None:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    driver = Driver(make_spec("search.trials=1"))
    driver.begin()
    assert driver.controller.finished
    with pytest.raises(InputError, match="trials: 0 is below the 1 that study small has started"):
        extend(driver.study, 0)
    with pytest.raises(InputError, match="outside its domain"):
        enqueue(driver.study, {"model.dropout": 0.9})
    with pytest.raises(InputError, match=r"model\.dropout"):
        enqueue(driver.study, {"model.dropuot": 0.1})
    extend(driver.study, 2)
    enqueue(driver.study, {"model.dropout": 0.25})
    number = driver.begin().number
    assert driver.controller.live[number].params["model.dropout"] == 0.25
    (budget,), (log,) = driver.events("budget"), driver.events("log")
    assert budget.trials == 2
    assert log.text == f"enqueued trial {number}"
    assert "@" in budget.who
    assert "@" in log.who


def test_budget_can_be_lowered_to_the_number_of_started_trials(make_spec, monkeypatch) -> None:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    driver = Driver(make_spec("search.trials=2"))
    driver.begin()
    extend(driver.study, 3000)
    driver.begin(), driver.begin()
    assert driver.study.budget == 3000
    with pytest.raises(InputError, match="trials: 2 is below the 3 that study small has started"):
        extend(driver.study, 2)
    extend(driver.study, 3)
    assert driver.study.budget == 3
    assert driver.controller.next_trial() is None
    driver.crash()
    assert Driver(make_spec("search.trials=2")).study.budget == 3, (
        "an unchanged file does not restore its budget"
    )
    assert begin_study(make_spec("search.trials=4")).budget == 4, "a file with a raised budget does"


def test_pause_requeues_trials_and_resume_restarts_them(spec, monkeypatch) -> None:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    driver = Driver(spec)
    number = driver.begin().number
    pause(driver.study, on=True)
    assert driver.report(number, 5)
    assert driver.controller.next_trial() is None
    assert not driver.controller.finished
    pause(driver.study, on=False)
    assert driver.begin().number == number
    assert [event.outcome for event in driver.events("end")] == ["paused"]
    assert len(driver.events("pause")) == len(driver.events("resume")) == 1


def test_cancelled_trial_ends_permanently(spec, monkeypatch) -> None:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    driver = Driver(spec)
    number, other = driver.begin().number, driver.begin().number
    cancel_trial(driver.study, number)
    assert driver.report(number, 5)
    assert not driver.report(other, 5)
    assert outcome_of(driver.study.trials()[number]) == "stopped"
    with pytest.raises(InputError, match="has already ended"):
        cancel_trial(driver.study, number)
    with pytest.raises(InputError, match="no trial 99"):
        cancel_trial(driver.study, 99)


def test_study_releases_a_slot_to_another_study_and_gets_it_back(spec, monkeypatch) -> None:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    driver = Driver(spec)
    steering, why = (
        driver.controller.steering,
        "1 of 4 usable slots at priority 0: waits for other (priority 1)",
    )
    first, second = driver.begin().number, driver.begin().number
    steering.share = Share(1)
    assert not driver.report(first, 5), "nodes were removed, but no other study needs the slot"
    steering.share = Share(1, why)
    assert driver.report(second, 5), "the first trial that reports is interrupted"
    assert not driver.report(first, 6), "the share is no longer exceeded"
    assert driver.controller.next_trial() is None
    assert not driver.controller.finished
    assert driver.study.optuna.user_attrs["waits"] == why
    steering.share = Share(2)
    assert driver.begin().number == second
    assert [(event.trial, event.outcome) for event in driver.events("end")] == [(second, "interrupted")]
    assert driver.events("end")[0].reason == f"released its slot to another study: {why}"
    assert [event.text for event in driver.events("log")] == [
        why,
        "no other study limits this study's slots any more",
    ]


def test_demand_is_the_number_of_slots_that_the_study_can_use(make_spec, monkeypatch) -> None:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    driver = Driver(make_spec("search.trials=3", "resources.max_concurrent=2"))
    controller = driver.controller
    assert not controller.finished
    assert controller.demand == 2
    numbers = [driver.begin().number, driver.begin().number]
    assert controller.demand == 2
    for number in numbers:
        driver.report(number, 30, 0.4, outcome="complete")
    assert controller.demand == 1
    pause(driver.study, on=True)
    controller.poll()
    assert controller.demand == 0
    pause(driver.study, on=False)
    driver.begin()
    controller.stop("enough", now=False)
    assert controller.demand == 1, "the running trial may end"
