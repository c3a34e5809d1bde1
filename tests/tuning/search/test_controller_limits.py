"""Budgets of trials, training steps and seconds over all drivers of a study."""

from proxytune.tuning.store.summary import outcome_of
from tests.tuning.search.driving import Driver


def test_trial_budget_counts_interrupted_trials_once_and_can_be_raised(make_spec) -> None:
    driver = Driver(make_spec("search.trials=2"))
    driver.begin()
    driver.crash()
    driver = Driver(make_spec("search.trials=2"))
    for _ in range(2):
        driver.report(driver.begin().number, 30, 0.3, outcome="complete")
    assert driver.controller.finished
    driver.crash()
    driver = Driver(make_spec("search.trials=3"))
    assert driver.begin().number == 2
    assert driver.controller.finished


def test_step_budget_ends_the_study_at_the_next_reports(make_spec) -> None:
    spec = make_spec("search.max_steps=50", "search.stopping.name=none")
    driver = Driver(spec)
    first, second = driver.begin().number, driver.begin().number
    assert driver.report(first, 30, 0.4, outcome="complete")
    assert not driver.report(second, 10, 0.2)
    driver.crash()
    driver = Driver(spec)  # steps of earlier drivers count
    assert driver.begin().number == second
    assert not driver.report(second, 15)
    assert driver.report(second, 20, 0.3)
    assert driver.controller.finished
    assert outcome_of(driver.study.trials()[second]) == "pruned"


def test_steps_of_a_requeued_trial_are_counted_once(make_spec) -> None:
    driver = Driver(make_spec("search.max_steps=40", "search.stopping.name=none"))
    number = driver.begin().number
    for _ in range(5):  # interrupted five times between two reports
        driver.report(number, 10, 0.2)
        driver.report(number, 15)
        driver.controller.requeue_live()
        assert driver.begin().number == number
    assert driver.report(number, 30, 0.4, outcome="complete")
    assert not driver.controller.finished  # 30 of 40 steps, without 5 more for each interruption


def test_time_budget_counts_all_drivers(make_spec, monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("proxytune.tuning.search.limits.time.monotonic", lambda: clock[0])
    spec = make_spec("search.max_seconds=50")
    driver = Driver(spec)
    driver.begin()
    clock[0] += 30
    assert not driver.controller.finished
    driver.crash()
    driver = Driver(spec)
    clock[0] += 19
    assert not driver.controller.finished
    clock[0] += 2
    assert driver.controller.finished
