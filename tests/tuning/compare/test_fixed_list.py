"""The test split of a study with a fixed list of configurations: one recorded opening for all of its models."""

from collections.abc import Callable

import pytest

from proxytune.datasets import DataError
from proxytune.datasets.openings import recorded_openings
from proxytune.tuning.compare.compare import compare
from proxytune.tuning.compare.fixed_list import evaluate_on_test
from proxytune.tuning.confirm.test_split import accuracies_on_test
from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.test_split import read_openings
from tests.tuning.conftest import finish


@pytest.fixture
def fixed_list(make_small: Callable[..., StudySpec]) -> Study:
    """Two numbers of proxies with two seeds each, trained."""
    return finish(
        make_small(
            'search.space={"model.num_proxies": {"choice": [2, 4]}, "training.seed": {"choice": [0, 1]}}',
            "search.sampler.name=grid",
            "search.enqueue=[]",
            "search.stopping.name=none",
            "search.trials=4",
        )
    )


def evaluate(study: Study, *, again: bool = False) -> None:
    evaluate_on_test(study, who="tester", again=again, say=lambda line: None)


def test_all_models_are_tested_in_one_opening(fixed_list: Study) -> None:
    evaluate(fixed_list)
    (opening,) = read_openings(fixed_list)
    assert opening["by"] == "tester"
    assert opening["subject"]["trials"] == [0, 1, 2, 3]
    assert len(recorded_openings(fixed_list.folder)) == 1
    values = dict(zip(range(4), opening["result"]["values"], strict=True))
    rows = compare([fixed_list]).rows
    assert {row.configuration for row in rows} == {"num_proxies 2", "num_proxies 4"}
    trials = fixed_list.trials()
    for row in rows:
        by_seed = [
            values[trial.number]
            for trial in trials
            if trial.params["model.num_proxies"] == int(row.configuration.split()[-1])
        ]
        assert len(by_seed) == len(row.by_seed) == 2
        assert row.test_accuracy == pytest.approx(sum(by_seed) / 2)
        assert row.test_openings == 1
    evaluate(fixed_list)
    assert len(read_openings(fixed_list)) == 1, "the result of the same models is stored"
    evaluate(fixed_list, again=True)
    assert len(read_openings(fixed_list)) == len(recorded_openings(fixed_list.folder)) == 2
    assert {row.test_openings for row in compare([fixed_list]).rows} == {2}


def test_other_data_than_that_of_the_trials_is_rejected_before_the_opening(
    fixed_list: Study,
) -> None:
    trial = fixed_list.trials()[0]
    stored = fixed_list.checkpoints(trial)
    bound = stored.trained_on("0" * 64)
    bound.save(6, stored.load(next(stored.paths())))
    models = [(fixed_list.spec.trial(trial.params), bound)]
    with pytest.raises(DataError, match=r"the models were trained on 000000000000: restore the data"):
        next(accuracies_on_test(models, "tester", "test", fixed_list.folder))
    assert recorded_openings(fixed_list.folder) == []


def test_search_without_a_confirmation_is_rejected(study: Study) -> None:
    with pytest.raises(InputError, match="study small is a search: a confirmation tests its winner"):
        evaluate(study)
    assert read_openings(study) == []
