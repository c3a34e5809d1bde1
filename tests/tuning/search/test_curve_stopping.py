"""The `curve` stopping rule: which trials it stops, on made-up learning curves."""

import shutil
from collections.abc import Callable

import numpy as np
import pytest
from optuna.trial import TrialState

from proxytune.tuning.errors import InputError
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.curve_history import CurveHistory, make_encoding
from proxytune.tuning.search.curve_stopping import chance
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import END
from proxytune.tuning.trial.update import TrialUpdate
from tests.tuning.search.driving import Driver

RUNG, FULL = 10, 90
NUM_TRIALS = 30

Value = Callable[[float], float]


@pytest.fixture
def make_ruled(make_spec: Callable[..., StudySpec]) -> Callable[..., StudySpec]:
    """Studies over the dropout with rungs at 10 and 30 of 90 steps."""
    return lambda *assignments: make_spec(
        *("search.space={model.dropout: {low: 0.0, high: 0.3}}", "search.enqueue=[]"),
        *(f"training.steps={FULL}", f"training.eval_every={RUNG}", f"search.trials={NUM_TRIALS}"),
        *(
            "search.stopping={name: curve, min_steps: 10}",
            "search.sampler={name: random, seed: 0}",
            *assignments,
        ),
    )


def final(dropout: float) -> float:
    return 0.9 - 4 * (dropout - 0.12) ** 2


def play(driver: Driver, early: Value) -> dict[int, str]:
    """Run the study, one trial at a time; the step and the reason of each trial that was stopped."""
    while (assignment := driver.controller.next_trial()) is not None:
        dropout = float(assignment.spec.model["dropout"])
        for step in range(RUNG, FULL + 1, RUNG):
            share = (step - RUNG) / (FULL - RUNG)
            value = share * final(dropout) + (1 - share) * early(dropout)
            outcome = "complete" if step == FULL else "running"
            if driver.say(assignment.number, step, value, outcome=outcome):
                break
    return {
        trial.number: trial.user_attrs[END]["reason"]
        for trial in driver.study.trials()
        if trial.state == TrialState.PRUNED
    }


def test_early_values_that_rank_stop_the_bad_trials_and_never_the_best(
    make_ruled: Callable[..., StudySpec],
) -> None:
    driver = Driver(make_ruled())
    reasons = play(driver, lambda dropout: final(dropout) - 0.3)
    assert len(reasons) > 15
    trials = driver.study.trials()
    best = max(trials, key=lambda trial: final(trial.params["model.dropout"]))
    assert best.state == TrialState.COMPLETE
    assert any(
        reason.startswith("its chance of becoming the best is") and reason.endswith("at step 10")
        for reason in reasons.values()
    )


def test_a_bad_first_value_does_not_stop_the_best_where_first_values_say_nothing(
    make_ruled: Callable[..., StudySpec],
) -> None:
    """ASHA ranks by the first value alone; the model has learnt from complete trials where good configurations are."""

    def noise(dropout: float) -> float:
        return 0.5 + 0.1 * float(np.random.default_rng(int(dropout * 1e9)).normal())

    def finished(rule: str) -> int:
        """In how many of three studies the best of the tried configurations was trained to the end."""
        count = 0
        for seed in range(3):
            names = f"name={rule}-{seed}", f"search.sampler.seed={seed}", f"search.stopping.name={rule}"
            driver = Driver(make_ruled(*names))
            play(driver, noise)
            best = max(driver.study.trials(), key=lambda trial: final(trial.params["model.dropout"]))
            count += best.state == TrialState.COMPLETE
        return count

    assert finished("curve") == 3
    assert finished("asha") <= 1


def test_the_chance_is_that_of_many_draws_of_the_model(make_ruled: Callable[..., StudySpec]) -> None:
    spec = make_ruled("search.trials=10")
    driver = Driver(spec)
    play(driver, lambda dropout: final(dropout) - 0.3)
    study = driver.study.optuna
    history = CurveHistory.read(spec, study, make_encoding(spec)) or pytest.fail("too few trials")
    best = history.model.mean(history.points[history.complete]).max()
    number = 7
    mean, deviation = history.model.final(history.points[[number]])
    drawn = mean + deviation * np.random.default_rng(0).normal(size=200_000)
    assert chance(spec, study, number) == pytest.approx((drawn > best).mean(), abs=3e-3)


def test_another_process_decides_the_same(make_ruled: Callable[..., StudySpec], tmp_path) -> None:
    spec = make_ruled("search.trials=12")
    driver = Driver(spec)
    play(driver, lambda dropout: final(dropout) - 0.3)
    driver.die()
    copy = make_ruled("search.trials=12", f"storage={shutil.copytree(spec.storage, tmp_path / 'copy')}")
    chances = [chance(spec, driver.study.optuna, number) for number in range(12)]
    assert [chance(copy, begin_study(copy).optuna, number) for number in range(12)] == chances


def test_while_few_trials_have_a_value_it_is_asha(make_ruled: Callable[..., StudySpec]) -> None:
    driver = Driver(make_ruled())
    numbers = [driver.begin().number for _ in range(4)]
    assert [driver.say(number, RUNG, 0.9 - 0.1 * number) for number in numbers] == [False, True, True, True]
    assert chance(make_ruled(), driver.study.optuna, 0) is None


def test_a_trial_that_violates_a_constraint_is_compared_by_rank(
    make_ruled: Callable[..., StudySpec],
) -> None:
    """Its accuracy, the best by far, must not keep it."""
    spec = make_ruled("search.constraints={val_loss: '<= 2'}")
    driver = Driver(spec)
    for _ in range(4):
        driver.say(driver.begin().number, FULL, 0.5, outcome="complete")
    number = driver.begin().number
    metrics = {"val_accuracy": 0.99, "val_loss": 3.0}
    feasible = [driver.begin().number for _ in range(3)]
    for other in feasible:
        driver.say(other, RUNG, 0.5)
    assert driver.controller.receive(number, TrialUpdate(step=RUNG, metrics=metrics), {})
    reason = driver.study.trials()[number].user_attrs[END]["reason"]
    assert reason == f"not among the best at step {RUNG}"


def test_several_objectives_are_refused_in_one_line(make_ruled: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError) as caught:
        make_ruled("search.objectives={val_accuracy: maximize, val_loss: minimize}")
    assert str(caught.value).splitlines() == [str(caught.value)], "one line"
    assert "search.stopping.name: curve supports one objective; use asha" in str(caught.value)
