"""`search.stop_when`: a study ends when the expected gain is too low, records the reason, and continues after `extend`."""

from collections.abc import Callable
from typing import Any

import pytest

from proxytune.tuning.errors import InputError
from proxytune.tuning.run.look import check_study
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.steering import enqueue, extend
from proxytune.tuning.store.summary import summary
from tests.tuning.search.driving import Driver


@pytest.fixture
def make_stopping(make_spec: Callable[..., StudySpec]) -> Callable[..., StudySpec]:
    """Studies over dropout alone; `play` defines its effect on the accuracy."""
    return lambda *assignments: make_spec(
        *("search.space={model.dropout: {low: 0.0, high: 0.3}}", "search.enqueue=[]", "search.stopping=none"),
        *("search.trials=40", "search.sampler=curve", *assignments),
    )


def play(driver: Driver) -> int:
    """Run until the study starts no more trials and return the number of its trials."""
    while (assignment := driver.controller.next_trial()) is not None:
        dropout = float(assignment.spec.model["dropout"])
        driver.report(assignment.number, 30, 0.9 - 2 * (dropout - 0.12) ** 2, outcome="complete")
    return len(driver.study.trials())


def test_study_ends_when_the_expected_gain_is_below_the_threshold(
    make_stopping: Callable[..., StudySpec],
) -> None:
    spec = make_stopping("search.stop_when={expected_gain_below: 0.001}")
    driver = Driver(spec)
    number = play(driver)
    assert 10 <= number < 40
    assert driver.study.optuna.best_value == pytest.approx(0.9, abs=0.001)
    because = summary(driver.study)["ended_because"]
    assert because.endswith(f"is below 0.001 after {number} trials")
    (logged,) = driver.events("log")
    assert logged.text == f"the study ends because {because}"
    driver.crash()
    again = Driver(spec)  # the end is stored
    assert again.controller.finished
    again.crash()
    with pytest.raises(
        InputError, match=r"search\.stop_when: study small has ended because the expected gain"
    ):
        check_study(spec)


def test_rule_is_off_by_default_and_needs_ten_trials(
    make_stopping: Callable[..., StudySpec],
) -> None:
    assert play(Driver(make_stopping("search.trials=12"))) == 12
    few = make_stopping("name=few", "search.trials=9", "search.stop_when={expected_gain_below: 100}")
    driver = Driver(few)
    assert play(driver) == 9
    assert summary(driver.study)["ended_because"] is None


def test_extended_study_runs_to_the_new_budget(make_stopping: Callable[..., StudySpec]) -> None:
    spec = make_stopping("search.stop_when={expected_gain_below: 100}")
    driver = Driver(spec)
    assert play(driver) == 10
    driver.crash()
    extend(driver.study, 14)
    assert summary(driver.study)["ended_because"] is None
    assert play(Driver(spec)) == 14


def test_enqueued_configuration_runs_before_the_study_ends(make_stopping: Callable[..., StudySpec]) -> None:
    driver = Driver(make_stopping("search.stop_when={expected_gain_below: 100}"))
    for _ in range(10):
        driver.report(driver.begin().number, 30, 0.5, outcome="complete")
    enqueue(driver.study, {"model.dropout": 0.25})
    assert driver.begin().spec.model["dropout"] == 0.25
    assert driver.controller.next_trial() is None


def test_expected_gain_matches_sampling(make_stopping: Callable[..., StudySpec], monkeypatch: Any) -> None:
    """The quadrature against samples of the model's normal distribution at one candidate."""
    import numpy as np

    from proxytune.tuning.search import curve_sampler
    from proxytune.tuning.search.curve_history import CurveHistory
    from proxytune.tuning.search.encoding import Encoding

    spec = make_stopping("search.trials=8")
    driver = Driver(spec)
    play(driver)
    sampler = curve_sampler.CurveSampler(spec, 0)
    study = driver.study.optuna
    history = CurveHistory.read(spec, study, Encoding(spec.space, spec.fixed)) or pytest.fail("too few")
    candidate = np.array([[0.9]])
    monkeypatch.setattr(sampler, "_candidates", lambda _: candidate)
    monkeypatch.setattr(curve_sampler, "NUM_NODES", 80)
    mean, deviation = history.model.final(candidate)
    drawn = history.scale.value(mean + deviation * np.random.default_rng(0).normal(size=100_000))
    gain = np.maximum(np.minimum(drawn, 1.0) - study.best_value, 0.0).mean()
    assert sampler.expected_gain(study) == pytest.approx(gain, rel=0.2, abs=1e-5)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["search.stop_when={expected_gain_below: 0}"], r"search\.stop_when\.expected_gain_below"),
        (["search.stop_when={expected_gain_below: 0.1, gain: 1}"], r"search\.stop_when\.gain: unknown key"),
        (
            [
                "search.stop_when={expected_gain_below: 0.1}",
                "search.sampler=tpe",
                "search.objectives={val_accuracy: maximize, parameters: minimize}",
            ],
            r"search\.stop_when: supports one objective",
        ),
    ],
)
def test_invalid_rule_is_rejected_in_one_line(
    make_stopping: Callable[..., StudySpec], assignments: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_stopping(*assignments)
    assert len(str(caught.value).splitlines()) == 1
