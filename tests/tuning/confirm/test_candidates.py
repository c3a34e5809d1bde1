"""The candidates of a confirmation and their seeds."""

import pytest

from proxytune.tuning.confirm.candidates import candidates, fresh_seeds, with_named
from proxytune.tuning.errors import InputError
from proxytune.tuning.run.begin import begin_study
from tests.tuning.confirm.synthetic import SPACE, Driver, searched


def test_candidates_are_the_best_feasible_trials_in_order(make) -> None:
    study = searched(make(trials=4, constraints={"val_loss": "<= 2"}), [0.1, 0.4, 0.2, 0.3])
    assert [trial.number for trial in candidates(study, 3)] == [1, 3, 2]
    assert len(candidates(study, 99)) == 4
    lowest = searched(
        make(trials=3, objectives={"val_accuracy": "minimize"}).model_copy(update={"name": "lowest"}),
        [3, 1, 2],
    )
    assert [trial.number for trial in candidates(lowest, 2)] == [1, 2]


def test_named_trials_are_candidates_whatever_their_value(make) -> None:
    study = searched(make(trials=4, constraints={"val_loss": "<= 2"}), [0.1, 0.4, 0.2, 0.3])
    best = candidates(study, 1)
    assert [trial.number for trial in with_named(study, best, [0, 1])] == [1, 0]
    with pytest.raises(InputError, match="trial 7 of study small is not there; only trials that reached"):
        with_named(study, best, [7])
    spec = make(trials=2, constraints={"val_accuracy": ">= 0.2"}).model_copy(update={"name": "strict"})
    with pytest.raises(InputError, match="trial 0 of study strict is outside the constraints"):
        with_named(searched(spec, [0.1, 0.3]), [], [0])


def test_configuration_with_several_seeds_is_one_candidate(make) -> None:
    params = {"model.num_proxies": 4, "model.dropout": 0.1}
    space = SPACE | {"training.seed": {"choice": [0, 1, 3]}}
    queue = [params | {"training.seed": 1}, params | {"training.seed": 3}, params | {"model.dropout": 0.2}]
    study = searched(make(trials=3, space=space, enqueue=queue), [0.2, 0.3, 0.1])
    assert [trial.number for trial in candidates(study, 5)] == [1, 2]
    assert not set(fresh_seeds(study, 4)) & {0, 1, 3}


def test_candidates_are_the_pareto_front_with_several_objectives(make) -> None:
    spec = make(trials=4, objectives={"val_accuracy": "maximize", "val_loss": "minimize"})
    driver = Driver(spec)
    for accuracy, loss in [(0.3, 3.0), (0.2, 2.0), (0.2, 2.5), (0.1, 1.0)]:
        assignment = driver.controller.next_trial()
        driver.report(assignment.number, 4, accuracy, loss)
    driver.close()
    assert {trial.number for trial in candidates(driver.study, 5)} == {0, 1, 3}
    assert {trial.number for trial in candidates(driver.study, 2)} == {0, 3}  # the extremes of the front


def test_error_explains_why_there_are_no_candidates(make) -> None:
    with pytest.raises(InputError, match="no trial that reached the full budget yet"):
        candidates(begin_study(make()), 5)
    study = searched(
        make(trials=2, constraints={"val_accuracy": ">= 0.9"}).model_copy(update={"name": "strict"}),
        [0.5, 0.7],
    )
    with pytest.raises(InputError, match=r"trial 1 is nearest: val_accuracy 0\.7 is not >= 0\.9"):
        candidates(study, 5)


def test_fresh_seeds_exclude_the_seeds_of_the_study(make) -> None:
    assert fresh_seeds(begin_study(make()), 3) == (1, 2, 3)
