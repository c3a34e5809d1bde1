"""Confirmation with `confirm_study` and the `confirm` command."""

import json
import os
import signal
import subprocess
import time

import pytest

from proxytune.datasets.openings import recorded_openings
from proxytune.tuning.cli import cli
from proxytune.tuning.confirm.confirm import confirm_study
from proxytune.tuning.errors import HeldError, InputError, StorageError
from proxytune.tuning.store.confirmation import read_confirmation
from proxytune.tuning.store.lease import Lease
from proxytune.tuning.store.study import Study, open_study
from proxytune.tuning.store.summary import outcome_of
from tests.commandline import command
from tests.tuning.confirm.synthetic import searched


def test_running_study_is_rejected(study: Study) -> None:
    lease = Lease(study.storage, study.name)
    lease.acquire()
    try:
        with pytest.raises(HeldError, match="small is held by process"):
            confirm_study(study, top=2, num_seeds=2, who="tester")
    finally:
        lease.release()


def test_unconfirmed_study_has_no_confirmation(study: Study) -> None:
    assert read_confirmation(study) is None


@pytest.mark.timeout(600)
@pytest.mark.slow
@pytest.mark.e2e
def test_confirm_command_retrains_on_ray_and_tests_once(make, capsys: pytest.CaptureFixture[str]) -> None:
    study = searched(make(trials=2), [0.30, 0.31])
    storage = study.spec.storage
    arguments = ("confirm", "small", "--top", "9", "--seeds", "2", "--storage", str(storage))
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    assert "study small has 2 candidates, not 9" in done.stderr
    assert "the test split is opened for trial" in done.stderr
    assert "test split (2,000 examples, 2 models)" in done.stdout
    found = read_confirmation(open_study("small", storage))
    assert found.test.openings == 1
    assert all(candidate.efficiency["train_sequences_per_second"] > 0 for candidate in found.candidates)
    assert len(recorded_openings(study.folder)) == 1
    cli.main([*arguments, "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found.to_json()))
    assert len(recorded_openings(study.folder)) == 1


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_confirm_command_resumes_after_sigkill(make) -> None:
    study = searched(
        make(trials=2).model_copy(update={"training": make().training | {"steps": 300, "eval_every": 50}}),
        [0.3, 0.2],
    )
    storage = study.spec.storage
    arguments = command("confirm", "small", "--top", 2, "--seeds", 3, "--storage", storage)
    driver = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            trials = open_study("small.confirm", storage).trials()
        except (InputError, StorageError):
            trials = []
        if sum(outcome_of(trial) == "complete" for trial in trials) >= 2:
            break
        time.sleep(0.3)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    before = {trial.number: trial.datetime_complete for trial in trials if outcome_of(trial) == "complete"}
    assert before
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    after = open_study("small.confirm", storage).trials()
    assert len(after) == 6
    assert all(after[number].datetime_complete == when for number, when in before.items())
    assert read_confirmation(open_study("small", storage)).test.openings == 1
