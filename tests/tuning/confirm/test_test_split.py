"""The test split is opened once; the opening is recorded before the evaluation, and its result is stored."""

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxytune.datasets.openings import recorded_openings
from proxytune.tuning.confirm.confirm import confirm_study, result_on_test
from proxytune.tuning.confirm.test_split import accuracies_on_test
from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.store.checkpoints import Checkpoints
from proxytune.tuning.store.confirmation import CONFIRMATION, Confirmation, TestResult, read_confirmation
from proxytune.tuning.store.study import Study, open_study
from proxytune.tuning.store.test_split import read_openings
from proxytune.tuning.trial.trial_run import TrialRun
from tests.tuning.confirm.synthetic import concluded, plan_for, racing, searched, small_spec

Trained = tuple[Study, Confirmation, list[Checkpoints]]


@pytest.fixture(scope="module")
def finished_retrainings(tmp_path_factory: pytest.TempPathFactory, data_cache: Path) -> Study:
    """The study of two real, short retrainings of one candidate; read-only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROXYTUNE_CACHE", str(data_cache))
        study = searched(small_spec(tmp_path_factory.mktemp("trained"), trials=2), [0.3, 0.2])
        driver = racing(study, plan_for(study, 1, 2))
        while (assignment := driver.controller.next_trial()) is not None:
            run = TrialRun(assignment.spec, assignment.checkpoints)
            while not driver.controller.receive(assignment.number, run.advance(), {}):
                pass
        driver.close()
        return driver.study


@pytest.fixture
def trained(finished_retrainings: Study, tmp_path: Path) -> Trained:
    """A copy of a study with finished retrainings, its confirmation, and the checkpoints of the retrainings."""
    storage = Path(shutil.copytree(finished_retrainings.spec.storage, tmp_path / "studies"))
    study, retrainings = open_study("small", storage), open_study("small.confirm", storage)
    trials = retrainings.trials()
    confirmation = concluded(study, plan_for(study, 1, 2), trials)
    return study, confirmation, [retrainings.checkpoints(trial) for trial in trials]


def evaluate(
    trained: Trained, again: bool = False, accuracies: Callable[..., Any] = accuracies_on_test
) -> TestResult:
    study, confirmation, checkpoints = trained
    logged = functools.partial(accuracies, log_folder=study.folder)
    return result_on_test(
        study, confirmation, checkpoints, logged, who="tester", again=again, say=lambda line: None
    )


def test_test_split_is_opened_once_and_recorded_with_its_result(trained: Trained) -> None:
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


def test_second_opening_requires_again_and_is_counted(trained: Trained) -> None:
    study, _, _ = trained
    first = evaluate(trained)
    second = evaluate(trained, again=True)
    assert (second.openings, second.values) == (2, first.values)
    assert [opening["result"]["openings"] for opening in read_openings(study)] == [1, 2]
    assert len(recorded_openings(study.folder)) == 2


def test_different_models_are_rejected_without_again(trained: Trained) -> None:
    study, _, checkpoints = trained
    evaluate(trained)
    manifest = Path(next(checkpoints[0].paths()).url) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"sha256": "', '"sha256": "00'))
    with pytest.raises(InputError, match=r"opened its test split at .* for trial 0; .*again"):
        evaluate(trained)
    assert len(recorded_openings(study.folder)) == 1


def test_evaluation_killed_before_its_result_resumes_the_same_opening(trained: Trained) -> None:
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


def test_missing_checkpoint_is_reported_before_the_split_is_opened(trained: Trained) -> None:
    study, _, checkpoints = trained
    for path in checkpoints[1].paths():
        (path / "manifest.json").delete()
    with pytest.raises(StorageError, match="checkpoint is missing or damaged"):
        evaluate(trained)
    assert read_openings(study) == []


def test_different_plan_is_rejected_before_any_retraining(trained: Trained) -> None:
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
