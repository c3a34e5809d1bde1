"""`check` rejects what `run` would reject, without starting a trial or writing a file."""

import json
import sqlite3
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from proxytune.tuning.commands.check import check
from proxytune.tuning.errors import InputError
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.run.driver import run_study
from proxytune.tuning.spec.yaml_file import as_yaml
from proxytune.tuning.store.attributes import END, SECONDS


def invoke(spec, *arguments: str) -> str:
    """The standard error of `check`; its errors are raised."""
    spec.storage.mkdir(exist_ok=True)
    path = spec.storage / "study.yaml"
    path.write_text(as_yaml(spec.model_dump(mode="json")))
    done = CliRunner().invoke(check, [str(path), *arguments], catch_exceptions=False, standalone_mode=False)
    return done.stderr


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.name != "study.yaml"}


def add_ended_trials(spec, count: int, step: int) -> None:
    study = begin_study(spec).optuna
    for _ in range(count):
        study.ask().set_user_attr(END, {"outcome": "complete", "reason": "", "step": step, "metrics": {}})


def test_new_study_passes_and_nothing_is_written(make_spec) -> None:
    spec = make_spec()
    assert "4 trials of up to 30 steps" in invoke(spec)
    assert files(spec.storage) == set()


@pytest.mark.parametrize("empty", [False, True])
def test_database_without_studies_is_accepted(make_spec, tmp_path: Path, empty: bool) -> None:
    database = tmp_path / "separate.db"
    if empty:
        sqlite3.connect(database).close()
        database.touch()
    assert "4 trials" in invoke(make_spec(f"database=sqlite:///{database}"))
    assert database.exists() == empty
    spec = make_spec(f"database=sqlite:///{database}")
    begin_study(spec)
    assert "0 of 4 trials have ended" in invoke(spec)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("search.trials=4", r"search\.trials: the budget of study small is spent \(4 of 4\)"),
        ("search.max_steps=100", r"search\.max_steps: .* spent \(120 of 100\)"),
        ("search.max_seconds=9", r"search\.max_seconds: .* spent \(9\.5 of 9\)"),
    ],
)
def test_spent_budget_is_rejected_and_a_larger_budget_passes(make_spec, budget: str, words: str) -> None:
    trials = "search.trials=4" if "trials" in budget else "search.trials=9"
    add_ended_trials(make_spec(trials), 4, 30)
    begin_study(make_spec(trials)).optuna.set_user_attr(SECONDS, 9.5)
    with pytest.raises(InputError, match=words):
        invoke(make_spec(trials, budget))
    assert "4 of 9 trials have ended" in invoke(make_spec("search.trials=9"))


def test_changed_spec_of_a_stored_study_is_rejected(make_spec) -> None:
    begin_study(make_spec())
    with pytest.raises(InputError, match=r"training\.steps was 30, now 40"):
        invoke(make_spec("training.steps=40"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="requires a machine without a GPU")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("training.precision=fp16", "fp16"),
        ("search.space={training.precision: {choice: [fp32, fp16]}}", "fp16"),
        ("resources.gpu=1", r"resources\.gpu: 1 is more than this machine has \(0\)"),
    ],
)
def test_gpu_settings_are_rejected_without_a_gpu_by_check_and_run(make_spec, change: str, words: str) -> None:
    spec = make_spec("search.enqueue=[]", change)
    with pytest.raises(InputError, match=words):
        invoke(spec)
    with pytest.raises(InputError, match=words):
        run_study(spec)
    assert files(spec.storage) == set()
    assert "4 trials" in invoke(spec, "--address", "auto")  # the cluster may have a GPU


def test_batch_larger_than_the_dataset_is_rejected_before_any_trial(make_spec) -> None:
    spec = make_spec("training.batch_size=257")
    with pytest.raises(
        InputError, match=r"training\.batch_size: 257 is more than the 256 rows of listops-mini"
    ):
        run_study(spec)
    assert files(spec.storage) == set()


def test_json_output_is_the_study_file(make_spec) -> None:
    spec = make_spec()
    spec.storage.mkdir()
    path = spec.storage / "study.yaml"
    path.write_text(as_yaml(spec.model_dump(mode="json")))
    done = CliRunner().invoke(check, [str(path), "--json"], catch_exceptions=False, standalone_mode=False)
    assert json.loads(done.stdout) == spec.model_dump(mode="json")
