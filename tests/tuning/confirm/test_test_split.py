"""The test split is opened once; the opening is recorded before the evaluation, and its result is stored."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxytune.datasets.openings import recorded_openings
from proxytune.tuning.confirm.confirm import confirm_study, result_on_test
from proxytune.tuning.confirm.test_split import accuracies_on_test
from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.store.confirmation import CONFIRMATION, TestResult, read_confirmation
from proxytune.tuning.store.study import open_study
from proxytune.tuning.store.test_split import read_openings


def evaluate(trained, again: bool = False, accuracies: Callable[..., Any] = accuracies_on_test) -> TestResult:
    study, confirmation, checkpoints = trained
    logged = functools.partial(accuracies, log_folder=study.folder)
    return result_on_test(
        study, confirmation, checkpoints, logged, who="tester", again=again, say=lambda line: None
    )


def test_test_split_is_opened_once_and_recorded_with_its_result(trained) -> None:
    study, confirmation, _ = trained
    result = evaluate(trained)
    assert result.openings == 1
    assert len(result.values) == 2
    assert result.mean == pytest.approx(np.mean(result.values))
    assert result.num_examples == 2000
    (opening,) = read_openings(study)
    assert opening["by"] == "tester"
    assert opening["subject"]["trial"] == confirmation.winner
    (logged,) = recorded_openings(study.folder)
    assert logged["by"] == "tester"
    assert evaluate(trained) == result, "the result is stored"
    assert len(recorded_openings(study.folder)) == 1


def test_second_opening_requires_again_and_is_counted(trained) -> None:
    study, _, _ = trained
    first = evaluate(trained)
    second = evaluate(trained, again=True)
    assert (second.openings, second.values) == (2, first.values)
    assert [opening["result"]["openings"] for opening in read_openings(study)] == [1, 2]
    assert len(recorded_openings(study.folder)) == 2


def test_different_models_are_rejected_without_again(trained) -> None:
    study, _, checkpoints = trained
    evaluate(trained)
    manifest = Path(next(checkpoints[0].paths()).url) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"sha256": "', '"sha256": "00'))
    with pytest.raises(InputError, match=r"opened its test split at .* for trial 0; .*again"):
        evaluate(trained)
    assert len(recorded_openings(study.folder)) == 1


def test_evaluation_killed_before_its_result_resumes_the_same_opening(trained) -> None:
    study, _, _ = trained

    def interrupted(models, by: str, reason: str, log_folder: Path) -> Iterator[tuple[int, float]]:
        yield 2000, 0.5
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(trained, accuracies=interrupted)
    (opening,) = read_openings(study)
    assert opening["result"] is None, "recorded before the evaluation"
    result = evaluate(trained)
    assert result.openings == 1
    assert 0.5 not in result.values


def test_missing_checkpoint_is_reported_before_the_split_is_opened(trained) -> None:
    study, _, checkpoints = trained
    for path in checkpoints[1].paths():
        (path / "manifest.json").delete()
    with pytest.raises(StorageError, match="checkpoint is missing or damaged"):
        evaluate(trained)
    assert read_openings(study) == []


def test_different_plan_is_rejected_before_any_retraining(trained) -> None:
    study, confirmation, _ = trained
    result = evaluate(trained)
    study.optuna.set_user_attr(CONFIRMATION, confirmation.to_json() | {"test": vars(result)})
    known = confirm_study(study, top=1, num_seeds=2, who="tester")
    assert known == read_confirmation(study)
    assert known.test == result
    before = len(open_study("small.confirm", study.spec.storage).trials())
    with pytest.raises(InputError, match="again"):
        confirm_study(study, top=1, num_seeds=3, who="tester")
    with pytest.raises(InputError, match="again"):
        confirm_study(study, top=2, num_seeds=2, who="tester")
    assert len(open_study("small.confirm", study.spec.storage).trials()) == before
