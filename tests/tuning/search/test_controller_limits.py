"""What a study may spend: trials, training steps and seconds, over all its drivers."""

from proxytune.tuning.store.summary import outcome_of
from tests.tuning.search.driving import Driver


def test_the_budget_counts_interrupted_trials_once_and_can_grow(make_spec) -> None:
    driver = Driver(make_spec("search.trials=2"))
    driver.begin()
    driver.die()
    driver = Driver(make_spec("search.trials=2"))
    for _ in range(2):
        driver.say(driver.begin().number, 30, 0.3, outcome="complete")
    assert driver.controller.finished
    driver.die()
    driver = Driver(make_spec("search.trials=3"))
    assert driver.begin().number == 2
    assert driver.controller.finished


def test_a_budget_of_training_steps_ends_the_study_at_the_next_reports(make_spec) -> None:
    spec = make_spec("search.max_steps=50", "search.stopping.name=none")
    driver = Driver(spec)
    first, second = driver.begin().number, driver.begin().number
    assert driver.say(first, 30, 0.4, outcome="complete")
    assert not driver.say(second, 10, 0.2)
    driver.die()
    driver = Driver(spec)  # what earlier drivers spent counts
    assert driver.begin().number == second
    assert not driver.say(second, 15)
    assert driver.say(second, 20, 0.3)
    assert driver.controller.finished
    assert outcome_of(driver.study.trials()[second]) == "pruned"


def test_steps_of_a_trial_that_is_handed_back_are_counted_once(make_spec) -> None:
    driver = Driver(make_spec("search.max_steps=40", "search.stopping.name=none"))
    number = driver.begin().number
    for _ in range(5):  # interrupted five times half-way between two reports
        driver.say(number, 10, 0.2)
        driver.say(number, 15)
        driver.controller.requeue_live()
        assert driver.begin().number == number
    assert driver.say(number, 30, 0.4, outcome="complete")
    assert not driver.controller.finished  # 30 of 40, not 30 and 5 for each interruption


def test_a_budget_of_seconds_counts_all_drivers(make_spec, monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("proxytune.tuning.search.limits.time.monotonic", lambda: clock[0])
    spec = make_spec("search.max_seconds=50")
    driver = Driver(spec)
    driver.begin()
    clock[0] += 30
    assert not driver.controller.finished
    driver.die()
    driver = Driver(spec)
    clock[0] += 19
    assert not driver.controller.finished
    clock[0] += 2
    assert driver.controller.finished
