"""How commands resolve their STUDY argument, and the file or override that an error names."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxytune.tuning.cli import cli
from proxytune.tuning.commands.options import read_spec
from proxytune.tuning.errors import InputError
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.spec.schema import SHIPPED_SCHEMA, schema_text
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.yaml_file import as_yaml
from proxytune.tuning.store.lease import Lease
from proxytune.tuning.store.study import Study, open_study
from proxytune.tuning.studies import shipped_studies


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False, standalone_mode=False)


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stored(make_spec: Callable[..., StudySpec]) -> Study:
    return begin_study(make_spec())


def test_stored_study_is_read_by_name(stored: Study) -> None:
    assert read_spec("small", (), None, stored=True) == stored.spec
    assert read_spec("small", ["search.trials=9"], None, stored=True).search.trials == 9
    elsewhere = read_spec("small", (), stored.spec.storage, stored=True)
    assert elsewhere.folder == stored.folder
    with pytest.raises(InputError, match=r"no study in .*/nowhere.*listops-mini"):
        read_spec("small", (), Path("nowhere"), stored=True)
    with pytest.raises(InputError, match="no such file, and no shipped study"):
        read_spec("small", (), None)


def test_file_shadows_a_shipped_study_and_a_folder_does_not() -> None:
    shipped = read_spec("listops-mini", (), None)
    Path("listops-mini").mkdir()
    assert read_spec("listops-mini", (), None) == shipped
    Path("listops-mini").rmdir()
    trials = f"trials: {shipped.search.trials}"
    text = shipped_studies()["listops-mini"].read_text()
    assert trials in text
    Path("listops-mini").write_text(text.replace(trials, "trials: 123"))
    assert read_spec("listops-mini", (), None).search.trials == 123


def test_error_names_the_override_or_the_file(make_spec: Callable[..., StudySpec]) -> None:
    values = make_spec().model_dump(mode="json")
    values["model"]["num_layerz"] = 3
    Path("my.yaml").write_text(as_yaml(values))
    with pytest.raises(InputError) as caught:
        read_spec("my.yaml", ["training.stepz=3", "search.trials=0"], None)
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        *("my.yaml", "--set training.stepz=3", "--set search.trials=0")
    ]
    assert "model.num_layerz" in lines[0]
    with pytest.raises(InputError, match=r"^--set training\.steps: write it as key=value"):
        read_spec("my.yaml", ["training.steps"], None)


@pytest.mark.parametrize("url", ["postgresql://u:p/w@host/db", "postgresql://host/db?password=secret"])
def test_password_in_a_database_url_is_rejected(url: str) -> None:
    """It would be visible in the list of processes and in every message that contains the URL."""
    for command in (("show", "small"), ("serve",), ("stop", "small")):
        with pytest.raises(InputError, match="--database: a password in the URL") as caught:
            call(*command, "--database", url)
        assert "p/w" not in str(caught.value)
        assert "secret" not in str(caught.value)


def test_init_writes_a_valid_study_file() -> None:
    done = call("init", "listops")
    assert "proxytune check my-listops.yaml" in done.stderr
    assert read_spec("my-listops.yaml", (), None).training["steps"] == 5000
    with pytest.raises(InputError, match="exists"):
        call("init", "listops")
    with pytest.raises(InputError, match="did you mean listops"):
        call("init", "listop")
    assert Path("my-listops.yaml").read_text().startswith("# yaml-language-server: $schema=/")


def test_shipped_schema_is_current() -> None:
    # If this fails: proxytune schema > tuning/studies/study.schema.json
    assert SHIPPED_SCHEMA.read_text() == schema_text() == call("schema").stdout
    for path in shipped_studies().values():
        named = path.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
        assert (path.parent / named).resolve() == SHIPPED_SCHEMA.resolve()


def test_steering_commands_report_the_request(stored: Study) -> None:
    assert "queued model.dropout=0.2; no driver runs small now; `proxytune run small`" in (
        call("enqueue", "small", "model.dropout=0.2").stdout
    )
    assert "no driver runs small now" in call("stop", "small").stdout
    lease = Lease(stored.storage, "small")
    lease.acquire()
    try:
        for arguments, words in (
            (["extend", "small", "--trials", "6"], "set the budget of small to 6 trials; process"),
            (["pause", "small"], "requested small to pause; process"),
            (["resume", "small"], "requested small to resume; process"),
            (["stop", "small", "--now"], "requested small to stop now; process"),
        ):
            assert words in call(*arguments).stdout
    finally:
        lease.release()
    assert open_study("small", stored.spec.storage).budget == 6


def test_studies_lists_stored_studies(stored: Study, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = json.loads(call("studies", "--json").stdout)
    assert rows == [
        {
            "study": "small",
            "task": "listops-mini",
            "state": "interrupted",
            "ended": 0,
            "budget": 4,
            "best": None,
        }
    ]
    lease = Lease(stored.storage, "small")
    lease.acquire()
    try:
        assert "running" in call("studies").stdout
    finally:
        lease.release()
    assert f"no study in {tmp_path}/empty" in call("studies", "--storage", "empty").stdout


def test_check_rejects_missing_data_and_too_large_batches(make_spec: Callable[..., StudySpec]) -> None:
    from proxytune.datasets import DataError

    with pytest.raises(DataError, match="has no generator"):
        call("check", "text")
    Path("my.yaml").write_text(as_yaml(make_spec("training.batch_size=257").model_dump(mode="json")))
    with pytest.raises(InputError, match="257 is more than the 256 rows"):
        call("check", "my.yaml")


def test_check_reports_costs_and_warns_about_probable_mistakes(make_spec: Callable[..., StudySpec]) -> None:
    values = make_spec(
        "search.objectives={val_accuracy: minimize}", "search.space.model.num_proxies=[4, 100]"
    )
    Path("my.yaml").write_text(as_yaml(values.model_dump(mode="json")))
    words = " ".join(call("check", "my.yaml").stderr.split())
    assert "search.objectives.val_accuracy: set to minimize, although" in words
    assert "100 proxies for sequences of 128" in words
    assert re.search(r"\d parameters; memory and minutes .* `check --measure`", words)
    measured = " ".join(call("check", "my.yaml", "--measure").stderr.split())
    for unit in ("parameters", "MiB per sequence", "min on this machine"):
        assert unit in measured
    assert " ".join(call("check", "my.yaml").stderr.split()) == measured, "the measurement is cached"
