"""Differences from the original data are reported and recorded; incomplete data are rejected unless `partial` is set."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from proxytune.datasets import DataError, find_sources, open_prepared, prepare
from proxytune.datasets.completeness import RowCounts
from proxytune.datasets.sources import Source
from proxytune.datasets.task import Rows
from proxytune.datasets.text import FORMATS, OFFICIAL_ROWS


def write_cifar(root: Path, sizes=(8, 8, 8, 8, 8), binary=False) -> Path:
    random = np.random.default_rng(0)
    folder = root / f"cifar-10-batches-{'bin' if binary else 'py'}"
    folder.mkdir(parents=True)
    for number, size in enumerate((*sizes, 10), 1):
        name = f"data_batch_{number}" if number <= len(sizes) else "test_batch"
        data = random.integers(0, 256, (size, 3072), np.uint8)
        labels = np.arange(size, dtype=np.uint8) % 10
        if binary:
            (folder / f"{name}.bin").write_bytes(np.concatenate([labels[:, None], data], 1).tobytes())
        else:
            (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": labels.tolist()}))
    return folder


def write_imdb(root: Path, splits=("train", "test"), labels=("neg", "pos"), number=20) -> Path:
    for split in splits:
        for label in labels:
            (root / "aclImdb" / split / label).mkdir(parents=True)
            for index in range(number):
                path = root / f"aclImdb/{split}/{label}/{index}_{9 if label == 'pos' else 2}.txt"
                path.write_text(f"{split} {label} {index}")
    return root / "aclImdb"


def write_aan(root: Path, truncated: bool = False) -> None:
    for name in ("train", "eval", "test"):
        rows = [f"{index % 2}.0\tA\tB\tb'text {index}'\tb'other'" for index in range(6)]
        content = "\n".join(rows) + "\n"
        content = content[:-3] if truncated and name == "train" else content
        (root / f"new_aan_pairs.{name}.tsv").write_text(content)


def accepted_only_as_partial(task: str, root: Path, message: str, **options) -> dict[str, str]:
    """Check that the data are rejected without `partial`, and accepted with it; return the recorded conventions."""
    cache = root.parent / "cache"
    with pytest.raises(DataError, match=message) as error:
        prepare(task, root=root, cache=cache, **options)
    assert "task.partial: true" in str(error.value)
    assert "\n" not in str(error.value)
    assert all(finding.status != "ready" for finding in find_sources(root, cache))
    prepared = prepare(task, root=root, cache=cache, partial=True, **options)
    conventions = dict(prepared.info.conventions)
    assert conventions["partial"]
    manifest = json.loads((prepared.folder / "manifest.json").read_text())
    assert manifest["info"]["conventions"] == conventions
    with pytest.raises(DataError, match=message):  # still, after they were prepared as partial
        prepare(task, root=root, cache=cache, **options)
    assert open_prepared(prepared.folder).info == prepared.info
    return conventions


def test_missing_rows_are_reported_and_recorded(tmp_path):
    write_cifar(tmp_path)
    prepared = prepare("image", root=tmp_path, cache=tmp_path / "cache")
    conventions = prepared.info.conventions
    assert conventions["rows"] == "40 of 50,000 train rows, 10 of 10,000 test rows"
    assert "45,000" not in str(conventions)
    assert "official" not in conventions["validation"]


def test_differences_from_the_original_are_one_line(tmp_path):
    write_cifar(tmp_path / "root", sizes=(8, 8, 8))
    prepared = prepare("image", root=tmp_path / "root", cache=tmp_path / "cache", partial=True)
    assert prepared.compared.startswith("24 of 50,000 train rows")
    assert prepared.compared.endswith("3 of 5 files data_batch_? found")
    assert prepare("listops-mini", cache=tmp_path / "cache", train_examples=10).compared == ""


def test_missing_cifar_batches_are_rejected(tmp_path):
    write_cifar(tmp_path / "root", sizes=(8, 8, 8))
    (finding,) = find_sources(tmp_path / "root")
    assert finding.status == "incomplete"
    conventions = accepted_only_as_partial("image", tmp_path / "root", r"3 of 5 files data_batch_\?")
    assert conventions["rows"] == "24 of 50,000 train rows, 10 of 10,000 test rows"


def test_short_cifar_batch_is_rejected(tmp_path):
    write_cifar(tmp_path / "root", sizes=(8, 8, 8, 8, 5))
    accepted_only_as_partial("image", tmp_path / "root", "train files of 5, 8 images")


def test_truncated_cifar_record_is_rejected(tmp_path):
    folder = write_cifar(tmp_path / "root", sizes=(11, 10, 10, 10, 10), binary=True)
    path = folder / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-100])
    conventions = accepted_only_as_partial(
        "image", tmp_path / "root", r"data_batch_1\.bin: .*it is truncated"
    )
    assert conventions["rows"].startswith("50 of 50,000 train rows")


@pytest.mark.parametrize("split", ["train", "test"])
def test_split_with_a_single_class_is_rejected(split, tmp_path):
    folder = write_imdb(tmp_path / "root")
    for path in (folder / split / "pos").iterdir():
        path.rename(folder / split / "neg" / f"x{path.name}")
    (folder / split / "pos/readme.md").write_text("not a review")
    with pytest.raises(DataError, match=r"missing: .*pos"):
        prepare("text", root=tmp_path / "root", cache=tmp_path / "cache")
    for other in ("train", "test"):
        lines = [f'"{other} {n}",{1 if other == split else n % 2}' for n in range(40)]
        (tmp_path / f"{other}.csv").write_text("\n".join(["text,label", *lines]))
    files = {name: tmp_path / f"{name}.csv" for name in ("train", "test")}
    with pytest.raises(DataError, match=f"{split}.*one class only"):
        prepare("text", files=files, cache=tmp_path / "cache")
    prepared = prepare("text", files=files, cache=tmp_path / "cache", partial=True)
    assert "one class only" in prepared.info.conventions["partial"]


def test_truncated_aan_document_is_rejected(tmp_path):
    (tmp_path / "root").mkdir()
    write_aan(tmp_path / "root", truncated=True)
    conventions = accepted_only_as_partial(
        "retrieval", tmp_path / "root", r"train\.tsv, line 6: .*it is truncated"
    )
    assert conventions["rows"].startswith("5 of 147,086 train rows")


@pytest.mark.parametrize(
    ("text", "truncated"),
    [
        (b"b'complete'", False),
        (b'b"it\'s"', False),
        (b"b'no end", True),
        (b"b'escaped\\'", True),
        (b"b'backslash\\\\'", False),
        (b"b'", True),
        (b"plain text", False),
        (b"before that", False),
    ],
)
def test_truncated_bytes_literal_is_recognized(text, truncated, tmp_path):
    write_aan(tmp_path)
    path = tmp_path / "new_aan_pairs.train.tsv"
    path.write_bytes(path.read_bytes() + b"1.0\tA\tB\tb'text'\t" + text + b"\n")
    if truncated:
        with pytest.raises(DataError, match=r"line 7: .*it is truncated"):
            prepare("retrieval", root=tmp_path, cache=tmp_path / "cache")
    else:
        assert len(prepare("retrieval", root=tmp_path, cache=tmp_path / "cache").train) == 7


def test_missing_parquet_shards_are_rejected(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": [f"t {n}" for n in range(40)], "label": [n % 2 for n in range(40)]})
    (tmp_path / "root").mkdir()
    for name in ("train-00000-of-00002", "test-00000-of-00001"):
        pq.write_table(table, tmp_path / f"root/{name}.parquet")
    accepted_only_as_partial("text", tmp_path / "root", "1 of 2 files train")


# --- validation splits in the data -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "valid", "dev", "validation"])
def test_existing_validation_folder_is_used(name, tmp_path):
    folder = write_imdb(tmp_path, splits=("train", "test", name))
    prepared = prepare("text", root=tmp_path, cache=tmp_path / "cache")
    sizes = len(prepared.train), len(prepared.validation), prepared.records["test"].rows
    assert sizes == (40, 40, 40)
    assert prepared.info.conventions["validation"] == "the copy's own split of 40 reviews"
    official = prepare("text", root=tmp_path, cache=tmp_path / "cache", validation="test")
    assert official.info.conventions["left out"] == "the copy's own validation split of 40 reviews"
    for path in (folder / name / "neg").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="validation split has one class only"):
        prepare("text", root=tmp_path, cache=tmp_path / "cache")


def test_validation_folder_identical_to_test_is_not_used(tmp_path):
    folder = write_imdb(tmp_path)
    (folder / "val").symlink_to(folder / "test")
    prepared = prepare("text", root=tmp_path, cache=tmp_path / "cache")
    assert (len(prepared.train), len(prepared.validation)) == (36, 4)
    assert "copy's own" not in prepared.info.conventions["validation"]


# --- counts, classes and fingerprints of the original ------------------------------------------------------


def imdb_counts(classes=(12_500, 12_500)) -> tuple[RowCounts, Source]:
    counts = RowCounts("another task")
    for split, share in (("train", 0.9), ("validation", 0.1), ("test", 1)):
        numbers = [int(share * number) for number in classes]
        labels = np.repeat([0, 1], numbers)
        counts.add(split, Rows((labels.astype(np.uint8),), (np.ones(len(labels), np.int64),), labels))
    source = Source("aclImdb", Path("/data"), format=FORMATS[0], counts=dict(OFFICIAL_ROWS))
    return counts, source


def test_original_row_counts_are_recognized_after_splitting_off_validation():
    counts, source = imdb_counts()
    assert counts.findings(source, 2) == {"rows": "as many as the original has"}


def test_different_class_counts_are_reported():
    counts, source = imdb_counts(classes=(12_000, 13_000))
    assert counts.findings(source, 2)["classes"] == (
        "train has 12000/13000 rows by class, the original 12500/12500; "
        "test has 12000/13000 rows by class, the original 12500/12500"
    )


@pytest.mark.slow  # 50,000 reviews, read twice
@pytest.mark.realdata
def test_original_imdb_is_recognized_by_content_in_any_format(real_file, tmp_path):
    """The archive, and the same reviews as Parquet in another order, are recognized and have the same fingerprint."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from proxytune.datasets.archives import archive_index, read_members

    archive = real_file("aclImdb_v1.tar.gz")
    original = prepare("text", root=archive, cache=tmp_path)
    assert original.info.conventions["rows"] == "as many as the original has"
    assert original.info.conventions["known"].startswith("the original IMDB")
    reviews: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    members = frozenset(name for name in archive_index(archive).names if "/pos/" in name or "/neg/" in name)
    for name, stream in read_members(archive, members):
        _, split, label, _ = name.split("/")
        reviews[split].append((stream.read().decode(), int(label == "pos")))
    (tmp_path / "parquet").mkdir()
    for split, rows in reviews.items():
        table = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
        pq.write_table(table, tmp_path / f"parquet/{split}-00000-of-00001.parquet")
    other = prepare("text", root=tmp_path / "parquet", cache=tmp_path)
    assert other.info.conventions["known"] == original.info.conventions["known"]
    assert other.fingerprint == original.fingerprint
    assert other.info.conventions["source"] != original.info.conventions["source"]
