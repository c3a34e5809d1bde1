"""What `data list` and `data inspect` show."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from proxytune.datasets import DataError, find_sources, inspect, prepare


def test_texts_are_shown_decoded(tmp_path):
    prepared = prepare("listops-mini", cache=tmp_path, train_examples=100, mapper=map)
    seen = inspect(prepared, tmp_path / "look", num_examples=3)
    assert len(seen.examples) == 3
    for label, (text,) in seen.examples:
        assert text.startswith("[")
        assert text.endswith("]")
        assert 0 <= label < 10
    assert sum(seen.class_counts["train"]) == 100
    assert list(seen.class_counts) == ["train", "validation"]  # the test split stays shut
    assert seen.rows == {"train": 100, "validation": 2000, "test": 2000}
    assert 9 <= seen.lengths["min"] <= seen.lengths["median"] <= seen.lengths["max"] <= 37
    assert seen.fingerprint == prepared.fingerprint
    assert seen.examples_png is None
    with Image.open(seen.lengths_png) as picture:
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_pictures_are_shown_as_png(tmp_path):
    prepared = prepare("pathfinder", cache=tmp_path, train_examples=8, difficulty="easy", mapper=map)
    seen = inspect(prepared, tmp_path / "look", num_examples=8)
    assert seen.examples == []
    with Image.open(seen.examples_png) as picture:
        assert (np.asarray(picture.convert("L")) == 0).mean() > 0.2  # eight dark squares


@pytest.mark.parametrize("number", [0, 101])
def test_an_impossible_number_is_refused(number, tmp_path):
    prepared = prepare("listops-mini", cache=tmp_path, train_examples=10, mapper=map)
    with pytest.raises(DataError, match="num_examples"):
        inspect(prepared, tmp_path / "look", num_examples=number)


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


def test_a_folder_is_listed_once_whatever_links_lead_to_it(tmp_path):
    (tmp_path / "lra_release/listops-1000").mkdir(parents=True)
    for split in ("train", "val", "test"):
        (tmp_path / f"lra_release/listops-1000/basic_{split}.tsv").write_text("")
    (tmp_path / "alias").symlink_to(tmp_path / "lra_release")
    (finding,) = find_sources(tmp_path)
    assert finding.place == f"{tmp_path}/lra_release/listops-1000"


@pytest.mark.realdata
def test_real_root(data_root):
    complete = {(finding.task, finding.form) for finding in find_sources(data_root) if not finding.missing}
    assert complete >= {
        ("listops", "official TSV"),
        ("text", "aclImdb"),
        ("retrieval", "AAN TSV"),
        ("image", "CIFAR-10 python pickles"),
    }


HEAVY = ["matplotlib", "torch", "ray", "optuna", "mlflow", "pandas", "proxytune.models", "proxytune.tuning"]


def test_importing_stays_light_and_the_probe_can_fail():
    probe = f"print([name for name in {HEAVY} if name in sys.modules])"
    program = f"import sys, proxytune.datasets\n{probe}\nfrom proxytune.datasets import TrainBatches\n{probe}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['torch']"]
