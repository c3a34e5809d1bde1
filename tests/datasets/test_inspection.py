"""The inventory of `data list` and the content of `data inspect`."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from proxytune.datasets import DataError, find_sources, inspect, prepare


def test_inspect_decodes_token_rows(tmp_path):
    prepared = prepare("listops-mini", cache=tmp_path, train_examples=100, mapper=map)
    inspection = inspect(prepared, tmp_path / "inspected", num_examples=3)
    assert len(inspection.examples) == 3
    for label, (text,) in inspection.examples:
        assert text.startswith("[")
        assert text.endswith("]")
        assert 0 <= label < 10
    assert sum(inspection.class_counts["train"]) == 100
    assert list(inspection.class_counts) == ["train", "validation"]  # the test split is not opened
    assert inspection.rows == {"train": 100, "validation": 2000, "test": 2000}
    lengths = inspection.lengths
    assert 9 <= lengths["min"] <= lengths["median"] <= lengths["max"] <= 37
    assert inspection.fingerprint == prepared.fingerprint
    assert inspection.examples_png is None
    with Image.open(inspection.lengths_png) as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_inspect_draws_image_rows_as_png(tmp_path):
    prepared = prepare("pathfinder", cache=tmp_path, train_examples=8, difficulty="easy", mapper=map)
    inspection = inspect(prepared, tmp_path / "inspected", num_examples=8)
    assert inspection.examples == []
    with Image.open(inspection.examples_png) as image:
        assert (np.asarray(image.convert("L")) == 0).mean() > 0.2  # eight dark squares


@pytest.mark.parametrize("number", [0, 101])
def test_invalid_num_examples_is_rejected(number, tmp_path):
    prepared = prepare("listops-mini", cache=tmp_path, train_examples=10, mapper=map)
    with pytest.raises(DataError, match="num_examples"):
        inspect(prepared, tmp_path / "inspected", num_examples=number)


def test_incomplete_and_damaged_sources_are_listed(tmp_path):
    (tmp_path / "listops-1000").mkdir()
    (tmp_path / "listops-1000/basic_train.tsv").write_text("")
    (tmp_path / "aclImdb_v1.tar.gz").write_bytes(b"\x1f\x8b" + os.urandom(100))
    listops, damaged = find_sources(tmp_path)
    assert (listops.task, listops.status) == ("listops", "incomplete")
    assert listops.missing == ("listops-1000/basic_val.tsv", "listops-1000/basic_test.tsv")
    assert (damaged.status, damaged.place) == ("unreadable", str(tmp_path / "aclImdb_v1.tar.gz"))
    assert "truncated, damaged" in damaged.missing[0]
    with pytest.raises(DataError, match="does not exist"):
        find_sources(tmp_path / "nowhere")


def test_folder_with_symlink_alias_is_listed_once(tmp_path):
    (tmp_path / "lra_release/listops-1000").mkdir(parents=True)
    for split in ("train", "val", "test"):
        (tmp_path / f"lra_release/listops-1000/basic_{split}.tsv").write_text("")
    (tmp_path / "alias").symlink_to(tmp_path / "lra_release")
    (finding,) = find_sources(tmp_path)
    assert finding.place == f"{tmp_path}/lra_release/listops-1000"


@pytest.mark.realdata
def test_real_root_lists_complete_tasks(data_root):
    complete = {(finding.task, finding.form) for finding in find_sources(data_root) if not finding.missing}
    assert complete >= {
        ("listops", "official TSV"),
        ("text", "aclImdb"),
        ("retrieval", "AAN TSV"),
        ("image", "CIFAR-10 python pickles"),
    }


HEAVY = {"matplotlib", "torch", "ray", "optuna", "mlflow", "pandas", "proxytune.models", "proxytune.tuning"}


def test_import_of_datasets_is_light():
    program = "import sys, proxytune.datasets; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "proxytune.datasets.prepare" in imported
    assert not imported & HEAVY
