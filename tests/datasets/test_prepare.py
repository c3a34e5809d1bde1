"""Preparation: data are converted once, no partial files remain, damage is detected, errors are one line."""

import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

import proxytune.datasets as datasets
from proxytune.datasets import DataError, open_prepared, prepare, task_info
from proxytune.datasets.listops import ListOpsMini

SMALL = {"name": "listops-mini", "train_examples": 200, "mapper": map}


@pytest.fixture
def prepared(tmp_path):
    return prepare(cache=tmp_path / "cache", **SMALL)


def test_prepared_task_reopens_with_the_same_rows(prepared):
    opened = open_prepared(prepared.folder)
    assert (len(opened.train), len(opened.validation)) == (200, 2000)
    assert opened.fingerprint == prepared.fingerprint
    assert opened.info == prepared.info
    (tokens,), label = opened.train[17]
    (again,), label_again = prepared.train[17]
    assert np.array_equal(tokens, again)
    assert label == label_again
    assert tokens.dtype == np.uint8
    assert not tokens.flags.writeable
    opened.verify()


def test_generated_data_are_tagged(prepared):
    assert prepared.info.conventions["source"].startswith("generated")
    assert prepared.info.conventions["train"] == "first 200 examples"


def test_second_prepare_reads_no_source(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(ListOpsMini, "read", lambda *_: pytest.fail("the source was read again"))
    assert prepare(cache=tmp_path / "cache", **SMALL).fingerprint == prepared.fingerprint


def test_other_options_give_another_folder_and_fingerprint(prepared, tmp_path):
    other = prepare(cache=tmp_path / "cache", seed=1, **SMALL)
    assert other.folder != prepared.folder
    assert other.fingerprint != prepared.fingerprint


def test_fingerprint_does_not_depend_on_the_cache_path(prepared, tmp_path):
    assert prepare(cache=tmp_path / "elsewhere", **SMALL).fingerprint == prepared.fingerprint


def test_four_concurrent_processes_prepare_once(tmp_path):
    program = (
        "import sys; from pathlib import Path; from proxytune.datasets import prepare\n"
        "p = prepare('listops-mini', cache=Path(sys.argv[1]), train_examples=3000, mapper=map)\n"
        "print(p.fingerprint, len(p.train))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = {process.communicate()[0] for process in started}
    assert len(outputs) == 1
    assert outputs.pop().endswith(" 3000\n")
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_failed_prepare_leaves_no_files_and_can_be_retried(tmp_path, monkeypatch):
    def fails_late(self, source, mapper):
        yield from list(ListOpsMini._generate(self, mapper))[:1]
        raise DataError("line 7 is bad")

    with monkeypatch.context() as patched:
        patched.setattr(ListOpsMini, "read", fails_late)
        with pytest.raises(DataError, match="line 7"):
            prepare(cache=tmp_path, **SMALL)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    assert len(prepare(cache=tmp_path, **SMALL).train) == 200


def test_killed_writer_leaves_no_files(tmp_path):
    """SIGKILL during writing, when the files have no name yet. The next prepare removes any other leftover."""
    program = (
        "import os, sys; from pathlib import Path; from proxytune.datasets import prepare\n"
        "prepare('listops-mini', cache=Path(sys.argv[1]), train_examples=200, mapper=map,"
        " progress=lambda *_: os.kill(os.getpid(), 9))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -9
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    (tmp_path / "listops-mini-0123.partial").mkdir()  # as after a kill during the rename
    prepared = prepare(cache=tmp_path, **SMALL)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [prepared.folder]


def test_progress_reports_rows(tmp_path):
    calls = []
    prepare(cache=tmp_path, progress=lambda done, total: calls.append(done), **SMALL)
    assert calls == sorted(calls)
    assert calls[-1] == 4200


# --- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_file_is_rejected_on_open(prepared, share):
    path = prepared.folder / "train.arrow"
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(DataError, match="damaged") as error:
        open_prepared(prepared.folder)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_verify_reports_both_digests_of_a_damaged_file(prepared):
    path = prepared.folder / "validation.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"sha256 [0-9a-f]{64}.* records [0-9a-f]{64}") as error:
        open_prepared(prepared.folder).verify()
    assert str(path) in str(error.value)


@pytest.mark.parametrize("damage", [{"splits": []}, {"info": "ab"}, {"info": None}])
def test_manifest_of_another_shape_raises_data_error(prepared, tmp_path, damage):
    folder = shutil.copytree(prepared.folder, tmp_path / "copy")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | damage))
    with pytest.raises(DataError, match="is damaged"):
        open_prepared(folder)


def test_damaged_footer_raises_data_error(prepared):
    """The last 400 bytes contain Arrow's footer: any flipped byte raises DataError."""
    path = prepared.folder / "train.arrow"
    good = path.read_bytes()
    for position in range(len(good) - 400, len(good), 7):
        content = bytearray(good)
        content[position] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            open_prepared(prepared.folder).verify()


def test_missing_split_and_modified_manifest_are_rejected(prepared):
    manifest = prepared.folder / "manifest.json"
    good = manifest.read_text()
    changed = json.loads(good)
    changed["info"]["vocab_size"] = 99
    for text in (json.dumps(changed), good[:50], "[]", '{"info": 1}'):
        manifest.write_text(text)
        with pytest.raises(DataError, match="damaged"):
            open_prepared(prepared.folder)
    manifest.write_text(good)
    (prepared.folder / "validation.arrow").unlink()
    with pytest.raises(DataError, match="missing"):
        open_prepared(prepared.folder)


def test_split_file_of_another_prepared_task_is_rejected(prepared, tmp_path):
    other = prepare(cache=tmp_path / "cache", **{**SMALL, "train_examples": 201})
    (prepared.folder / "train.arrow").write_bytes((other.folder / "train.arrow").read_bytes())
    with pytest.raises(DataError, match="damaged"):
        open_prepared(prepared.folder)


# --- errors of the caller --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("listop", {}, "no task 'listop' (did you mean 'listops'?)"),
        ("text", {"validaton": "test"}, "did you mean 'validation'?"),
        ("text", {"validation": "dev"}, "validation is 'dev', it must be one of"),
        ("text", {"max_length": 0}, "max_length is 0"),
        ("text", {"max_length": "4000"}, "max_length is '4000'"),
        ("listops", {"train_examples": 0}, "train_examples is 0"),
        ("listops", {"seed": -1}, "seed is -1"),
    ],
)
def test_invalid_task_or_option_raises_one_line_error(name, options, message):
    with pytest.raises(DataError) as error:
        task_info(name, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_data_error_lists_what_was_searched(tmp_path):
    (tmp_path / "root/listops-1000").mkdir(parents=True)
    (tmp_path / "root/listops-1000/basic_train.tsv").write_text("Source\tTarget\n")
    with pytest.raises(DataError) as error:
        prepare("listops", root=tmp_path / "root", cache=tmp_path / "cache")
    assert str(error.value).splitlines() == [
        f"no complete listops data under {tmp_path}/root: 1 files of the format 'official TSV' found",
        "missing: listops-1000/basic_val.tsv, listops-1000/basic_test.tsv",
        "Put them beside the others, or name each file in task.files.",
    ]
    assert "lra_release/listops-1000/basic_train.tsv" in error.value.details
    with pytest.raises(DataError, match="does not exist"):
        prepare("listops", root=tmp_path / "nowhere", cache=tmp_path / "cache")
    with pytest.raises(DataError, match="no generator"):
        prepare("text", cache=tmp_path / "cache")
    with pytest.raises(DataError, match="reads no files"):
        prepare("listops-mini", root=tmp_path, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_prepared_task_does_not_expose_the_test_split(prepared):
    assert not hasattr(prepared, "test")
    assert (prepared.folder / "test.arrow").is_file()


def test_threads_can_read_one_split_concurrently(prepared):
    expected = [prepared.train[row][0][0].tobytes() for row in range(200)]
    failures = []

    def read():
        if [prepared.train[row][0][0].tobytes() for row in range(200)] != expected:
            failures.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_task_info_needs_no_data():
    info = datasets.task_info("text", max_length=1000)
    assert (info.vocab_size, info.max_length, info.num_classes, info.num_documents) == (257, 1024, 2, 1)
    assert info.splits == ("train", "validation", "test")
    assert task_info("listops").max_length == 2048
    assert task_info("text").max_length == 4096
