"""Constraints on predicted metrics, on metrics measured before training, and on reported metrics."""

import pytest
from optuna.trial import TrialState

from proxytune.tuning.store.summary import outcome_of
from proxytune.tuning.store.winner import leading
from proxytune.tuning.trial.update import TrialUpdate
from tests.tuning.search.driving import Driver


@pytest.mark.parametrize("step", [0, 10])
def test_out_of_memory_violates_the_memory_constraint(make_spec, step: int) -> None:
    metric = "train_memory_mib_per_sequence"
    driver = Driver(make_spec(f"search.constraints={{{metric}: '<= 4000'}}", "search.stopping.min_steps=10"))
    number = driver.begin().number
    if step:
        metrics = {"val_accuracy": 0.2, "val_loss": 1.0, metric: 3.0}
        driver.controller.receive(number, TrialUpdate(step=step, metrics=metrics), {})
    assert driver.report(number, step + 1, outcome="out_of_memory", reason="out of memory")
    trial = driver.study.trials()[number]
    assert trial.state == TrialState.FAIL
    assert trial.constraints[metric] > 0


def test_infeasible_trial_does_not_win(make_spec) -> None:
    driver = Driver(make_spec('search.constraints={val_loss: "<= 0.5"}'))
    number = driver.begin().number
    driver.report(number, 30, 0.9, outcome="complete")
    assert leading(driver.study) == []
    assert driver.study.trials()[number].state == TrialState.COMPLETE


def test_configuration_predicted_to_exceed_the_memory_limit_never_starts(make_spec) -> None:
    constraint = 'search.constraints={train_memory_mib_per_sequence: "<= 0.001"}'
    driver = Driver(make_spec(constraint, "search.trials=3"))
    assert driver.controller.next_trial() is None
    assert [outcome_of(trial) for trial in driver.study.trials()] == ["infeasible"] * 3
    assert all(trial.constraints["train_memory_mib_per_sequence"] > 0 for trial in driver.study.trials())
    assert driver.events("trial") == driver.events("end") == []


SPEED = "train_sequences_per_second"


def test_measured_speed_that_violates_a_constraint_ends_the_trial_untrained(make_spec) -> None:
    driver = Driver(make_spec(f"search.constraints={{{SPEED}: '>= 100'}}"))
    slow, fast = driver.begin(), driver.begin()
    assert slow.efficiency == driver.study.folder / "efficiency"
    assert driver.controller.receive(slow.number, TrialUpdate(step=0, profile={SPEED: 99.0}), {})
    assert not driver.controller.receive(fast.number, TrialUpdate(step=0, profile={SPEED: 101.0}), {})
    trial = driver.study.trials()[slow.number]
    assert (trial.state, trial.constraints) == (TrialState.PRUNED, {SPEED: 1.0})
    assert trial.user_attrs["end"]["reason"] == f"measured {SPEED} 99 violates the constraint"
    assert trial.user_attrs["end"]["metrics"] == {SPEED: 99.0}
    assert driver.events("report") == []


def test_resumed_trial_keeps_its_steps_when_it_reports_its_speed_again(make_spec) -> None:
    driver = Driver(
        make_spec(f"search.objectives={{val_loss: minimize, {SPEED}: maximize}}", "search.max_steps=50")
    )
    number = driver.begin().number
    report = {"val_accuracy": 0.2, "val_loss": 1.0, SPEED: 7.0}
    driver.controller.receive(number, TrialUpdate(step=10, metrics=report), {})
    driver.controller.requeue_live()
    assert driver.begin().number == number
    assert not driver.controller.receive(number, TrialUpdate(step=0, profile={SPEED: 7.0}), {})
    assert driver.controller.live[number].step == 10
    driver.controller.receive(number, TrialUpdate(step=30, metrics=report, outcome="complete"), {})
    assert driver.study.trials()[number].values == [1.0, 7.0]


def test_speed_is_not_measured_unless_the_study_uses_it(make_spec) -> None:
    assert Driver(make_spec()).begin().efficiency is None
