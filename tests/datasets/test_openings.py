"""The test split is opened only by `open_test_split`, which records every opening."""

import errno
import json

import pytest

from proxytune.datasets import DataError, open_prepared, open_test_split, prepare
from proxytune.datasets.openings import recorded_openings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(
        "listops-mini", cache=tmp_path_factory.mktemp("cache"), train_examples=50, mapper=map
    ).folder


def test_every_opening_is_recorded(folder, tmp_path):
    prepared = open_prepared(folder)
    split = open_test_split(prepared, by="confirm of study a", reason="final score", log_folder=tmp_path)
    open_test_split(prepared, by="a user", reason="curiosity", log_folder=tmp_path)
    assert len(split) == 2000
    first, second = recorded_openings(tmp_path)
    assert (first["by"], first["reason"]) == ("confirm of study a", "final score")
    assert first["fingerprint"] == prepared.fingerprint
    assert first["time"] <= second["time"]
    assert second["task"] == "listops-mini"


def test_openings_are_recorded_in_the_task_folder_by_default(folder):
    open_test_split(open_prepared(folder), by="a user", reason="inspection")
    assert json.loads((folder / "test_openings.jsonl").read_text())["by"] == "a user"
    open_prepared(folder).verify()


@pytest.mark.parametrize("empty", [{"by": " ", "reason": "x"}, {"by": "x", "reason": ""}])
def test_opening_without_name_or_reason_is_rejected(empty, folder, tmp_path):
    with pytest.raises(DataError, match="is empty"):
        open_test_split(open_prepared(folder), log_folder=tmp_path, **empty)
    assert recorded_openings(tmp_path) == []


def test_opening_fails_if_it_cannot_be_recorded(folder, tmp_path):
    with pytest.raises(DataError, match="was not opened"):
        open_test_split(open_prepared(folder), by="a", reason="b", log_folder=tmp_path / "missing")


def test_opening_cut_by_a_full_disk_does_not_damage_the_next(folder, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    opened = {"by": "a", "reason": "b", "log_folder": tmp_path}
    open_test_split(open_prepared(folder), **opened)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DataError, match=r"No space left.*was not opened"):
            open_test_split(open_prepared(folder), **opened)
    open_test_split(open_prepared(folder), **opened)
    assert len(recorded_openings(tmp_path)) == 2


def test_damaged_record_of_an_opening_is_named(tmp_path):
    (tmp_path / "test_openings.jsonl").write_text('{"by": "a"}\n{"by": \n')
    with pytest.raises(DataError, match=r"test_openings\.jsonl: line 2 is damaged"):
        recorded_openings(tmp_path)


def test_damaged_test_split_is_rejected(tmp_path):
    prepared = prepare("listops-mini", cache=tmp_path, train_examples=50, mapper=map)
    path = prepared.folder / "test.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"test\.arrow is damaged: sha256"):
        open_test_split(prepared, by="a", reason="b", log_folder=tmp_path)
