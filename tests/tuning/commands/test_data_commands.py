"""The commands `proxytune data list`, `inspect` and `prepare`."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxytune.datasets import DataError
from proxytune.tuning.cli import cli
from tests.commandline import command


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYTUNE_CACHE", str(tmp_path / "cache"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["data", *arguments], catch_exceptions=False)


def test_list_reports_found_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "root/listops").mkdir(parents=True)
    (tmp_path / "root/listops/basic_val.tsv").write_text("Source\tTarget\n")
    found = json.loads(run("list", "--root", str(tmp_path / "root"), "--json").stdout)
    (finding,) = found["found"]
    assert (finding["task"], finding["form"]) == ("listops", "official TSV")
    assert finding["missing"] == ["listops/basic_train.tsv", "listops/basic_test.tsv"]
    assert "pathfinder" in found["generated"]
    table = run("list", "--root", str(tmp_path / "root")).stdout
    assert "listops/basic_train.tsv" in table
    assert "nothing found for: listops-mini, recall, text" in table


def test_inspect_shows_examples_and_writes_png(tmp_path: Path) -> None:
    options = ("listops-mini", "--option", "train_examples=50", "--out", str(tmp_path / "out"))
    facts = json.loads(run("inspect", *options, "--json").stdout)
    assert facts["rows"] == {"train": 50, "validation": 2000, "test": 2000}
    assert len(facts["examples"]) == 6
    assert Path(facts["lengths_png"]).read_bytes().startswith(b"\x89PNG")
    text = run("inspect", *options, "--examples", "2").stdout
    assert text.count("class ") == 3  # two examples and the class counts
    assert "[M" in text or "[SM" in text
    assert facts["fingerprint"] in text


def test_missing_root_and_zero_examples_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        run("list", "--root", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="num_examples is 0"):
        run("inspect", "listops-mini", "--option", "train_examples=50", "--examples", "0")


@pytest.mark.slow
@pytest.mark.e2e
def test_data_generated_by_ray_tasks_have_the_same_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprints = []
    for name, extra in (("local", []), ("ray", ["--on-ray"])):
        monkeypatch.setenv("PROXYTUNE_CACHE", str(tmp_path / name))
        options = ["--option", "train_examples=6000", "--json"]
        done = subprocess.run(
            command("data", "prepare", "listops-mini", *options, *extra),
            capture_output=True,
            text=True,
            check=True,
        )
        fingerprints.append(json.loads(done.stdout)["fingerprint"])
    assert fingerprints[0] == fingerprints[1]


def write_listops(root: Path, text: str = "( ( ( [MAX 2 ) {} ) ] )") -> None:
    root.mkdir(parents=True)
    for index, name in enumerate(("train", "val", "test")):
        rows = [f"{text.format(n)} ".strip() + f"\t{max(2, n)}" for n in range(index, 10, 3)]
        (root / f"basic_{name}.tsv").write_text("\n".join(["Source\tTarget", *rows, ""]))


def test_found_data_are_ready_only_after_preparation(tmp_path: Path) -> None:
    write_listops(tmp_path / "root")

    def statuses() -> list[str]:
        listing = json.loads(run("list", "--root", str(tmp_path / "root"), "--json").stdout)
        return [finding["status"] for finding in listing["found"]]

    assert statuses() == ["found"]
    facts = json.loads(run("prepare", "listops", "--root", str(tmp_path / "root"), "--json").stdout)
    assert (
        facts["conventions"]["rows"]
        == "4 of 96,000 train rows, 3 of 2,000 validation rows, 3 of 2,000 test rows"
    )
    assert statuses() == ["ready"]
    path = tmp_path / "root/basic_test.tsv"
    path.write_text(path.read_text().replace("\t2\n", "\t3\n"))
    assert statuses() == ["found"]
    with pytest.raises(
        DataError, match=r"basic_test\.tsv, line 2: the expression has the value 2, its target is 3"
    ):
        run("prepare", "listops", "--root", str(tmp_path / "root"))


def test_files_given_by_name_accept_partial_data_only_with_the_flag(tmp_path: Path) -> None:
    write_listops(tmp_path / "root")
    (tmp_path / "root/basic_test.tsv").write_text("( ( ( [MAX 3 ) 9 ) ] )\t9\n")
    names = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
    options = [f"--option={split}={tmp_path}/root/{name}" for split, name in names.items()]
    with pytest.raises(DataError, match=r"one class only; add --allow-partial \(task.partial: true\)"):
        run("prepare", "listops", *options)
    facts = json.loads(run("prepare", "listops", *options, "--allow-partial", "--json").stdout)
    assert facts["conventions"]["source"] == "files by name"
    assert "one class only" in facts["conventions"]["partial"]


def test_missing_data_error_is_short_and_verbose_lists_tried_files(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/notes.txt").write_text("")
    with pytest.raises(DataError) as short:
        run("prepare", "text", "--root", str(tmp_path / "root"))
    assert len(str(short.value).splitlines()) <= 3
    assert "which holds notes.txt" in str(short.value)
    assert "--option SPLIT=FILE (task.files)" in str(short.value)
    with pytest.raises(DataError) as long:
        run("prepare", "text", "--root", str(tmp_path / "root"), "--verbose")
    assert "aclImdb/train/neg/*.txt" in str(long.value)


def test_error_suggests_a_nested_folder_with_the_data(tmp_path: Path) -> None:
    write_listops(tmp_path / "root/a/b/c/d/mine")
    with pytest.raises(DataError, match="a/b/c/d/mine looks like it: give that as root"):
        run("prepare", "listops", "--root", str(tmp_path / "root"))


def test_control_characters_in_the_data_are_escaped(tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = [f'"\x1b]0;title\x07 {n} \x9b31m",{n % 2}' for n in range(40)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    text = run("inspect", "text", "--root", str(tmp_path), "--out", str(tmp_path / "out")).stdout
    assert not {"\x1b", "\x07", "\x9b"} & set(text)
    assert r"\x1b]0;title\x07" in text


def test_unusable_cache_error_names_the_folder_and_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROXYTUNE_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(DataError, match=r"cache folder .*file/cache cannot be used: .*PROXYTUNE_CACHE"):
        run("prepare", "listops-mini", "--option", "train_examples=10")


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["process", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_preparation_exits_with_75_and_leaves_no_files(
    number: int, send: Callable[[int, int], None], tmp_path: Path
) -> None:
    environment = {**os.environ, "PROXYTUNE_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(
        command("data", "prepare", "pathfinder"),
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    cache = tmp_path / "cache"
    while not (cache.exists() and list(cache.glob("*.lock"))):
        assert process.poll() is None
        time.sleep(0.05)
    send(process.pid, number)
    try:
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 75
    assert "Traceback" not in errors
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_task_section_accepts_files_and_partial(tmp_path: Path) -> None:
    from proxytune.tuning.spec.task import Task

    task = Task(name="listops", files={"train": Path("~/a.tsv")}, partial=True)
    assert task.source == {"root": None, "files": {"train": Path.home() / "a.tsv"}, "partial": True}
    assert task.options == {}
    assert "a.tsv" in task.described_source()
    with pytest.raises(ValueError, match="validation"):
        Task(name="listops", files={"valid": "a.tsv"})
