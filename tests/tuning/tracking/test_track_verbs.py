"""The commands `proxytune track sync`, `track rebuild`, `report`, `show --plot` and `ui`."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from proxytune.tuning.cli import cli
from proxytune.tuning.errors import HeldError, InputError, StorageError
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.run.begin import begin_study, hold_study
from proxytune.tuning.spec.study_spec import StudySpec
from tests.benchmarks.synthetic import synthetic_events
from tests.commandline import command
from tests.tuning.tracking.servers import free_port


@pytest.fixture
def study(storage: Path, make_spec: Callable[..., StudySpec]) -> StudySpec:
    """A study in Optuna's storage whose driver was killed while trials were running."""
    spec = make_spec(f"storage={json.dumps(str(storage))}")
    begin_study(spec)
    outbox = Outbox(spec.folder / "outbox")
    for event in list(synthetic_events(6, steps=100))[:-10]:
        outbox.append(event)
    outbox.close()
    return spec


def call(*arguments: object) -> Any:
    """The standard output of a command as JSON. Raises the error that the command line maps to an exit code."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.e2e
def test_sync_ships_all_waiting_events_and_ends_open_runs(
    study: StudySpec, storage: Path, store: Any
) -> None:
    shown = call("show", study.name, "--storage", storage, "--json")
    assert shown["events_waiting"] > 0
    first = call("track", "sync", study.name, "--storage", storage, "--json")
    assert first["shipped"] >= shown["events_waiting"]
    assert (first["waiting"], first["error"]) == (0, None)
    assert store.differences(study.folder / "outbox") == {}
    assert call("show", study.name, "--storage", storage, "--json")["events_waiting"] == 0


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_rebuild_ships_a_study_to_another_store_and_experiment(
    study: StudySpec, storage: Path, tmp_path: Path, empty_mlflow_database: Path, make_store: Any
) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(empty_mlflow_database.read_bytes())
    Outbox(study.folder / "outbox").close()
    for ships_events in (True, False):
        facts = call(
            *("track", "rebuild", study.name, "--storage", storage, "--uri", f"sqlite:///{other}"),
            *("--experiment", "other", "--json"),
        )
        assert (facts["shipped"] > 0, facts["waiting"]) == (ships_events, 0)
    assert make_store(f"sqlite:///{other}", "other").differences(study.folder / "outbox") == {}


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_rebuild_into_an_unusable_store_raises_storage_error(
    study: StudySpec, storage: Path, tmp_path: Path
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(StorageError, match="still wait for MLflow: MLflow at sqlite"):
        call(
            *("track", "rebuild", study.name, "--storage", storage),
            *("--uri", f"sqlite:///{blocker}/mlflow.db", "--timeout", "60"),  # MLflow's import takes seconds
        )


def test_sync_and_rebuild_reject_passwords_and_running_studies(study: StudySpec, storage: Path) -> None:
    with pytest.raises(InputError, match="holds a password"):
        call("track", "rebuild", study.name, "--storage", storage, "--uri", "http://me:secret@host")
    journal = (study.folder / "outbox" / "events.jsonl").read_bytes()
    with hold_study(study), pytest.raises(HeldError, match="ships its events"):  # its journal is not open yet
        call("track", "sync", study.name, "--storage", storage)
    assert (study.folder / "outbox" / "events.jsonl").read_bytes() == journal


def test_report_command_writes_a_page(study: StudySpec, storage: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["report", study.name, "--storage", str(storage)])
    assert result.exit_code == 0, result.output
    assert Path(result.stdout.strip()) == study.folder / "report.html"
    assert "Learning curves" in (study.folder / "report.html").read_text()
    for arguments, error in (
        (["report", "unknown", "--storage", str(storage)], InputError),
        (
            ["report", study.name, "--storage", str(storage), "--out", str(tmp_path / "missing" / "r.html")],
            StorageError,
        ),
    ):
        assert isinstance(CliRunner().invoke(cli, arguments).exception, error)


def test_show_plots_the_pareto_front_into_a_new_file(study: StudySpec, storage: Path, tmp_path: Path) -> None:
    path = tmp_path / "front.html"
    arguments = ("show", study.name, "--storage", storage, "--json", "--plot")
    with pytest.raises(InputError, match="fewer than two complete trials"):
        call(*arguments, path)
    outbox = Outbox(study.folder / "outbox")
    for event in list(synthetic_events(40))[1:]:
        outbox.append(event)
    outbox.close()
    call(*arguments, path)
    assert "Pareto front: val_accuracy against train_memory_mib_per_sequence" in path.read_text()
    for rejected in (path, tmp_path / "front.png"):
        before = path.read_bytes()
        with pytest.raises(InputError, match=re.escape(str(rejected))):
            call(*arguments, rejected)
        assert path.read_bytes() == before
    assert [file.name for file in tmp_path.glob("front*")] == ["front.html"]


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_ui_serves_the_experiment_on_loopback(storage: Path, uri: str, tmp_path: Path) -> None:
    MlflowClient(tracking_uri=uri).create_experiment("proxytune")
    port, log = free_port(), tmp_path / "ui.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command("ui", "--port", port), cwd=tmp_path, stdout=output, stderr=output, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=proxytune"
    deadline = time.monotonic() + 600
    try:
        while True:
            try:
                with urllib.request.urlopen(address, timeout=60) as answer:
                    assert json.load(answer)["experiment"]["name"] == "proxytune"
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(120)
