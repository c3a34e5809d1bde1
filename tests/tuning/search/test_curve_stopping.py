"""The `curve` stopping rule on synthetic learning curves."""

import shutil
from collections.abc import Callable

import numpy as np
import pytest
from optuna.trial import TrialState

from proxytune.tuning.errors import InputError
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.curve_history import CurveHistory
from proxytune.tuning.search.curve_stopping import chance
from proxytune.tuning.search.encoding import Encoding
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import END
from proxytune.tuning.trial.update import TrialUpdate
from tests.tuning.search.driving import Driver

RUNG, FULL = 10, 90
STEPS = (10, 30, 90)  # the rungs and the end
NUM_TRIALS = 30

Value = Callable[[float], float]


@pytest.fixture
def make_curve_spec(make_spec: Callable[..., StudySpec]) -> Callable[..., StudySpec]:
    """Studies over dropout with rungs at steps 10 and 30 of 90."""
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
    """Run the study one trial at a time and return the reason of each stopped trial."""
    while (assignment := driver.controller.next_trial()) is not None:
        dropout = float(assignment.spec.model["dropout"])
        for step in STEPS:
            share = (step - RUNG) / (FULL - RUNG)
            value = share * final(dropout) + (1 - share) * early(dropout)
            outcome = "complete" if step == FULL else "running"
            if driver.report(assignment.number, step, value, outcome=outcome):
                break
    return {
        trial.number: trial.user_attrs[END]["reason"]
        for trial in driver.study.trials()
        if trial.state == TrialState.PRUNED
    }


def test_informative_early_values_stop_bad_trials_and_keep_the_best(
    make_curve_spec: Callable[..., StudySpec],
) -> None:
    driver = Driver(make_curve_spec())
    reasons = play(driver, lambda dropout: final(dropout) - 0.3)
    assert len(reasons) > 15
    trials = driver.study.trials()
    best = max(trials, key=lambda trial: final(trial.params["model.dropout"]))
    assert best.state == TrialState.COMPLETE
    assert any(
        reason.startswith("its chance of becoming the best is") and reason.endswith("at step 10")
        for reason in reasons.values()
    )


def test_uninformative_first_values_do_not_stop_the_best_trial(
    make_curve_spec: Callable[..., StudySpec],
) -> None:
    """ASHA ranks by the first value alone; the model has learned from complete trials where good configurations are."""

    def noise(dropout: float) -> float:
        return 0.5 + 0.1 * float(np.random.default_rng(int(dropout * 1e9)).normal())

    def finishes_best(rule: str) -> bool:
        driver = Driver(
            make_curve_spec(f"name={rule}", f"search.stopping.name={rule}", "search.sampler.seed=1")
        )
        play(driver, noise)
        best = max(driver.study.trials(), key=lambda trial: final(trial.params["model.dropout"]))
        return bool(best.state == TrialState.COMPLETE)

    assert finishes_best("curve")
    assert not finishes_best("asha")


def test_chance_matches_sampling_from_the_model(make_curve_spec: Callable[..., StudySpec]) -> None:
    spec = make_curve_spec("search.trials=10")
    driver = Driver(spec)
    play(driver, lambda dropout: final(dropout) - 0.3)
    study = driver.study.optuna
    history = CurveHistory.read(spec, study, Encoding(spec.space, spec.fixed)) or pytest.fail(
        "too few trials"
    )
    best = history.model.mean(history.points[history.complete]).max()
    number = 7
    mean, deviation = history.model.final(history.points[[number]])
    drawn = mean + deviation * np.random.default_rng(0).normal(size=200_000)
    assert chance(spec, study, number) == pytest.approx((drawn > best).mean(), abs=3e-3)


def test_chances_depend_only_on_the_stored_trials(
    make_curve_spec: Callable[..., StudySpec], tmp_path
) -> None:
    spec = make_curve_spec("search.trials=12")
    driver = Driver(spec)
    play(driver, lambda dropout: final(dropout) - 0.3)
    driver.crash()
    copy = make_curve_spec("search.trials=12", f"storage={shutil.copytree(spec.storage, tmp_path / 'copy')}")
    copied = begin_study(copy).optuna
    for number in (0, 5, 11):
        assert chance(copy, copied, number) == chance(spec, driver.study.optuna, number)


def test_rule_is_asha_while_few_trials_have_a_value(make_curve_spec: Callable[..., StudySpec]) -> None:
    driver = Driver(make_curve_spec())
    numbers = [driver.begin().number for _ in range(4)]
    stopped = [driver.report(number, RUNG, 0.9 - 0.1 * number) for number in numbers]
    assert stopped == [False, True, True, True]
    assert chance(make_curve_spec(), driver.study.optuna, 0) is None


def test_trial_that_violates_a_constraint_is_compared_by_rank(
    make_curve_spec: Callable[..., StudySpec],
) -> None:
    """The infeasible trial has the best accuracy."""
    spec = make_curve_spec("search.constraints={val_loss: '<= 2'}")
    driver = Driver(spec)
    for _ in range(4):
        driver.report(driver.begin().number, FULL, 0.5, outcome="complete")
    number = driver.begin().number
    metrics = {"val_accuracy": 0.99, "val_loss": 3.0}
    feasible = [driver.begin().number for _ in range(3)]
    for other in feasible:
        driver.report(other, RUNG, 0.5)
    assert driver.controller.receive(number, TrialUpdate(step=RUNG, metrics=metrics), {})
    reason = driver.study.trials()[number].user_attrs[END]["reason"]
    assert reason == f"not among the best at step {RUNG}"


def test_several_objectives_are_rejected_in_one_line(make_curve_spec: Callable[..., StudySpec]) -> None:
    with pytest.raises(InputError) as caught:
        make_curve_spec("search.objectives={val_accuracy: maximize, val_loss: minimize}")
    assert str(caught.value).splitlines() == [str(caught.value)], "one line"
    assert "search.stopping.name: curve supports one objective; use asha" in str(caught.value)
