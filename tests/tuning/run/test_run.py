"""`proxytune` from the command line with real Ray, training and MLflow."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from proxytune.tuning.journal.reading import read_events
from tests.commandline import CommandResult, command, proxytune, proxytune_on_ray
from tests.tuning.conftest import EXPORT_FILES, NO_PROGRAMS

pytestmark = pytest.mark.timeout(3000)  # the fixture starts Ray, which takes minutes on a busy machine
STUDY = """
name: small
task: {name: listops-mini, train_examples: 512}
model: {num_layers: 1, embedding_dim: 16, feedforward_dim: 16, num_proxies: 4}
training: {steps: 40, warmup_steps: 4, batch_size: 8, learning_rate: 1e-3, eval_every: 20}
search:
  space:
    model.num_proxies: {choice: [2, 4, 8]}
    model.dropout: {low: 0.0, high: 0.3}
  stopping: {name: asha, min_steps: 20, reduction_factor: 2}
  trials: 4
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_cache: Path) -> Path:
    """A folder in which a small study has run. Tests may add files to the folder but must not change the study."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(STUDY)
    done = proxytune_on_ray("run", "small.yaml", "--json", cwd=folder, PROXYTUNE_CACHE=str(data_cache))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"] == 4
    return folder


def mlflow_runs(storage: Path) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("proxytune")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def test_show_and_trials_agree(finished: Path, call: Callable[..., CommandResult]) -> None:
    shown = json.loads(call("show", "small", "--json", cwd=finished).stdout)
    rows = json.loads(call("trials", "small", "--json", cwd=finished).stdout)
    assert shown["outcomes"] == Counter(row["outcome"] for row in rows)
    assert set(shown["outcomes"]) <= {"complete", "pruned"}
    assert shown["events_waiting"] == 0
    complete = [row["metrics"]["val_accuracy"] for row in rows if row["outcome"] == "complete"]
    assert shown["best"][0]["values"]["val_accuracy"] == max(complete)
    assert "winner" in call("show", "small", cwd=finished).stdout
    assert "num_proxies" in call("trials", "small", cwd=finished).stdout


def test_mlflow_has_one_run_per_trial_under_one_parent_run(
    finished: Path, call: Callable[..., CommandResult]
) -> None:
    runs = mlflow_runs(finished / "studies")
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert sorted(run.data.tags["trial_key"] for run in children) == [f"small/{n}" for n in range(4)]
    trials = json.loads(call("trials", "small", "--json", cwd=finished).stdout)
    rows = {row["trial"]: row for row in trials}
    for run in children:
        row = rows[int(run.data.tags["trial_key"].partition("/")[2])]
        assert run.data.tags["outcome"] == row["outcome"]
        assert run.info.status == "FINISHED", "a pruned trial is not a failure"
        assert run.data.metrics["val_accuracy"] == row["metrics"]["val_accuracy"]


def test_run_of_a_finished_study_trains_nothing(
    finished: Path, tmp_path: Path, call: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxytune.tuning.run.driver.DRAIN_SECONDS", 1.0)  # MLflow is not part of this test
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    before = len(read_events(folder / "studies" / "small" / "outbox").events)
    done = call("run", "small.yaml", cwd=folder)
    assert done.code == 0, done.stderr
    kinds = [event.kind for event in read_events(folder / "studies" / "small" / "outbox").events[before:]]
    assert kinds
    assert "trial" not in kinds


def test_export_is_complete_and_retrains_to_the_same_weights(
    finished: Path, call: Callable[..., CommandResult], without_programs: None
) -> None:
    done = call("export", "small", "--no-register", "--out", "winner", cwd=finished)
    assert done.code == 0, done.stderr
    assert str(finished / "winner") in done.stdout
    folder = finished / "winner"
    assert {path.name for path in folder.iterdir()} == EXPORT_FILES - NO_PROGRAMS.keys()
    metrics = json.loads((folder / "metrics.json").read_text())
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["study"] == "small"
    assert len(provenance["data"]["fingerprint"]) >= 32
    trained = json.loads(call("train", "winner/config.yaml", "--json", "--out", "again", cwd=finished).stdout)
    assert trained["metrics"]["val_accuracy"] == metrics["val_accuracy"]
    assert trained["metrics"]["val_loss"] == metrics["val_loss"]
    assert (finished / "again" / "weights.safetensors").read_bytes() == (
        folder / "weights.safetensors"
    ).read_bytes()

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rejected = call("export", "small", "--out", "winner", cwd=finished)
    assert rejected.code == 2
    assert "winner exists" in rejected.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "smal.yaml"], ["smal.yaml", "No such file"]),
        (["run", "small.yaml", "--set", "model.dropuot=0.1"], ["model.dropuot", "dropout"]),
        (["run", "small.yaml", "--set", "training.steps=41"], ["training.steps was 40, now 41"]),
        (["run", "text", "--storage", "elsewhere"], ["text", "root"]),
        (["run", "text", "--set", "task.root=nowhere", "--storage", "elsewhere"], ["nowhere"]),
        (["run", "small.yaml", "--set", "resources.gpu=7", "--set", "name=gpu"], ["resources.gpu", "7"]),
        (["check", "small.yaml"], ["search.trials", "4 of 4", "raise it"]),
        (["check", "small.yaml", "--set", "task.name=listop"], ["listop", "listops"]),
        (["show", "smll"], ["smll", "small"]),
        (["export", "small", "--trial", "99", "--out", "x"], ["99", "0 to 3"]),
        (["train", "nothing.yaml"], ["nothing.yaml"]),
        (["data", "prepare", "imagenet"], ["imagenet", "listops"]),
        (["ui", "--storage", "elsewhere"], ["elsewhere", "mlflow.db"]),
    ],
)
def test_invalid_input_is_one_error_line_and_exit_code_2(
    finished: Path, call: Callable[..., CommandResult], arguments: list[str], words: list[str]
) -> None:
    done = call(*arguments, cwd=finished)
    assert done.code == 2
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line
    assert not (finished / "elsewhere").exists()
    assert not (finished / "x").exists()


def test_precision_without_hardware_support_is_rejected(
    finished: Path, call: Callable[..., CommandResult]
) -> None:
    trial = STUDY.partition("search:")[0]
    (finished / "trial.yaml").write_text(trial)
    done = call("train", "trial.yaml", "--set", "training.precision=fp16", cwd=finished)
    assert done.code == 2
    assert "fp16" in done.stderr
    assert "cpu" in done.stderr


def test_check_prints_an_equivalent_study_file(finished: Path, call: Callable[..., CommandResult]) -> None:
    more = ("--set", "search.trials=9")  # check rejects a study whose budget is exhausted
    (finished / "resolved.yaml").write_text(call("check", "small.yaml", *more, cwd=finished).stdout)
    first, second = (
        call("check", name, *more, "--json", cwd=finished).stdout for name in ("small.yaml", "resolved.yaml")
    )
    assert json.loads(first) == json.loads(second)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_interrupted_killed_and_contended_study_completes_without_repetition(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(STUDY)
    long = [
        "--set",
        "training.steps=600",
        "--set",
        "training.eval_every=100",
        "--set",
        "search.stopping.name=none",
    ]
    start = command("run", "small.yaml", *long)
    outbox = tmp_path / "studies" / "small" / "outbox"

    def events(kind: str) -> list[dict]:
        return [event for event in read_events(outbox).events if event.kind == kind]

    def start_and_wait(num_reports: int) -> "subprocess.Popen[bytes]":
        with open(tmp_path / "log", "ab") as log:
            driver = subprocess.Popen(start, cwd=tmp_path, stdout=log, stderr=log)
        deadline = time.monotonic() + 600
        while len(events("report")) < num_reports:
            assert driver.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        return driver

    driver = start_and_wait(1)
    second = proxytune("run", "small.yaml", *long, cwd=tmp_path)
    assert second.returncode == 3
    assert f"process {driver.pid} on" in second.stderr
    driver.send_signal(signal.SIGINT)
    assert driver.wait(600) == 75
    shown = json.loads(proxytune("show", "small", "--json", cwd=tmp_path).stdout)
    assert "running" not in shown["outcomes"]

    driver = start_and_wait(len(events("report")) + 2)
    driver.kill()
    driver.wait()
    ended_before = {event.trial for event in events("end") if event.outcome == "complete"}
    attempts_before = Counter(event.trial for event in events("trial"))

    driver = start_and_wait(len(events("report")) + 1)
    os.kill(events("report")[-1].pid, signal.SIGKILL)  # the worker of a trial
    assert driver.wait(900) == 0, (tmp_path / "log").read_text()
    shown = json.loads(proxytune("show", "small", "--json", cwd=tmp_path).stdout)
    assert shown["outcomes"] == {"complete": 4}
    outcomes = Counter((event.trial, event.outcome) for event in events("end"))
    assert all(outcomes[trial, "complete"] == 1 for trial in range(4))
    reports = Counter((event.trial, event.step) for event in events("report"))
    assert reports == {(trial, step): 1 for trial in range(4) for step in range(100, 601, 100)}
    attempts = Counter(event.trial for event in events("trial"))
    assert all(attempts[trial] == attempts_before[trial] for trial in ended_before)
    runs = mlflow_runs(tmp_path / "studies")
    assert Counter(run.info.status for run in runs) == {"FINISHED": 5}
    assert max(attempts.values()) > 1
    check_that_extending_trains_only_the_new_trial(tmp_path, long)


def check_that_extending_trains_only_the_new_trial(folder: Path, options: list[str]) -> None:
    assert proxytune("extend", "small", "--trials", "5", cwd=folder).returncode == 0
    before = len(read_events(folder / "studies" / "small" / "outbox").events)
    done = proxytune_on_ray("run", "small.yaml", *options, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"] == 5
    events = read_events(folder / "studies" / "small" / "outbox").events[before:]
    assert [event.trial for event in events if event.kind == "trial"] == [4]
    assert {event.trial for event in events if event.kind in ("report", "end")} == {4}
