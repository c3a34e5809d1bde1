"""The test split is opened once, recorded before it is opened, and its result remembered."""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from proxytune.datasets.openings import recorded_openings
from proxytune.tuning.confirm.confirm import confirm_study, result_on_test
from proxytune.tuning.confirm.test_split import accuracies_on_test
from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.store.confirmation import CONFIRMATION, TestResult, read_confirmation
from proxytune.tuning.store.study import open_study
from proxytune.tuning.store.test_split import read_openings


def test(trained, **options) -> TestResult:
    study, confirmation, checkpoints = trained
    evaluate = functools.partial(accuracies_on_test, log_folder=study.folder)
    asked = {"who": "somebody", "again": False, "say": lambda line: None} | options
    return result_on_test(study, confirmation, checkpoints, asked.pop("evaluate", evaluate), **asked)


test.__test__ = False


def test_test_split_is_opened_once_and_recorded_with_its_result(trained) -> None:
    study, confirmation, _ = trained
    result = test(trained)
    assert result.openings == 1
    assert len(result.values) == 2
    assert result.mean == pytest.approx(np.mean(result.values))
    assert result.num_examples == 2000
    (opening,) = read_openings(study)
    assert opening["by"] == "somebody"
    assert opening["subject"]["trial"] == confirmation.winner
    (logged,) = recorded_openings(study.folder)
    assert logged["by"] == "somebody"
    assert test(trained) == result, "asked again it is remembered"
    assert len(recorded_openings(study.folder)) == 1


def test_second_opening_requires_again_and_is_counted(trained) -> None:
    study, _, _ = trained
    first = test(trained)
    second = test(trained, again=True)
    assert (second.openings, second.values) == (2, first.values)
    assert [opening["result"]["openings"] for opening in read_openings(study)] == [1, 2]
    assert len(recorded_openings(study.folder)) == 2


def test_different_models_are_rejected_without_again(trained) -> None:
    study, _, checkpoints = trained
    test(trained)
    manifest = Path(next(checkpoints[0].paths()).url) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"sha256": "', '"sha256": "00'))
    with pytest.raises(InputError, match=r"opened its test split at .* for trial 0; .*again"):
        test(trained)
    assert len(recorded_openings(study.folder)) == 1


def test_evaluation_killed_before_its_result_resumes_the_same_opening(trained) -> None:
    study, _, _ = trained

    def killed(models, by: str, reason: str) -> Iterator[tuple[int, float]]:
        yield 2000, 0.5
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        test(trained, evaluate=killed)
    (opening,) = read_openings(study)
    assert opening["result"] is None, "recorded before it is opened"
    result = test(trained)
    assert result.openings == 1
    assert 0.5 not in result.values


def test_missing_checkpoint_is_reported_before_the_split_is_opened(trained) -> None:
    study, _, checkpoints = trained
    for path in checkpoints[1].paths():
        (path / "manifest.json").delete()
    with pytest.raises(StorageError, match="checkpoint is missing or damaged"):
        test(trained)
    assert read_openings(study) == []


def test_different_plan_is_rejected_before_any_retraining(trained) -> None:
    study, confirmation, _ = trained
    result = test(trained)
    study.optuna.set_user_attr(CONFIRMATION, confirmation.to_json() | {"test": vars(result)})
    known = confirm_study(study, top=1, num_seeds=2, who="somebody")
    assert known == read_confirmation(study)
    assert known.test == result
    before = len(open_study("small.confirm", study.spec.storage).trials())
    with pytest.raises(InputError, match="again"):
        confirm_study(study, top=1, num_seeds=3, who="somebody")
    with pytest.raises(InputError, match="again"):
        confirm_study(study, top=2, num_seeds=2, who="somebody")
    assert len(open_study("small.confirm", study.spec.storage).trials()) == before
