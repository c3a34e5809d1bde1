"""`proxytune data list`, `inspect` and `prepare` as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxytune.datasets import DataError
from proxytune.tuning.cli import cli

PROXYTUNE = [sys.executable, "-P", "-c", "from proxytune.tuning.cli import main; main()"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYTUNE_CACHE", str(tmp_path / "cache"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["data", *arguments], catch_exceptions=False)


def test_list_shows_what_is_there_and_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "root/listops").mkdir(parents=True)
    (tmp_path / "root/listops/basic_val.tsv").write_text("Source\tTarget\n")
    found = json.loads(run("list", "--root", str(tmp_path / "root"), "--json").stdout)
    (finding,) = found["found"]
    assert (finding["task"], finding["form"]) == ("listops", "official TSV")
    assert finding["missing"] == ["listops/basic_train.tsv", "listops/basic_test.tsv"]
    assert "pathfinder" in found["generated"]
    table = run("list", "--root", str(tmp_path / "root")).stdout
    assert "listops/basic_train.tsv" in table
    assert "nothing found for: listops-mini, text" in table


def test_inspect_shows_examples_and_writes_png(tmp_path: Path) -> None:
    options = ("listops-mini", "--option", "train_examples=50", "--out", str(tmp_path / "look"))
    seen = json.loads(run("inspect", *options, "--json").stdout)
    assert seen["rows"] == {"train": 50, "validation": 2000, "test": 2000}
    assert len(seen["examples"]) == 6
    assert Path(seen["lengths_png"]).read_bytes().startswith(b"\x89PNG")
    shown = run("inspect", *options, "--examples", "2").stdout
    assert shown.count("class ") == 3  # two examples and the class counts
    assert "[M" in shown or "[SM" in shown
    assert seen["fingerprint"] in shown


def test_a_wrong_root_or_task_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        run("list", "--root", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="num_examples is 0"):
        run("inspect", "listops-mini", "--option", "train_examples=50", "--examples", "0")


def test_data_generated_as_ray_tasks_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprints = []
    for name, extra in (("here", []), ("ray", ["--on-ray"])):
        monkeypatch.setenv("PROXYTUNE_CACHE", str(tmp_path / name))
        options = ["--option", "train_examples=6000", "--json"]
        done = subprocess.run(
            [*PROXYTUNE, "data", "prepare", "listops-mini", *options, *extra],
            capture_output=True,
            text=True,
            check=True,
        )
        fingerprints.append(json.loads(done.stdout)["fingerprint"])
    assert fingerprints[0] == fingerprints[1]
