"""Text: every registered format gives the same reviews and the same fingerprint."""

import csv
import shutil
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from proxytune.datasets import DataError, find_sources, prepare
from proxytune.datasets.text import FORMATS, decode

REVIEWS = {
    split: [
        (f'{split} {number} of class {number % 2}, é\n"quoted", {"x" * number}', number % 2)
        for number in range(60)
    ]
    for split in ("train", "test")
}
EXAMPLES = {
    split: [(([byte + 1 for byte in text.encode()],), label) for text, label in REVIEWS[source]]
    for split, source in (("train", "train"), ("validation", "test"), ("test", "test"))
}


def write_acl(root: Path, _) -> None:
    for split, reviews in REVIEWS.items():
        for number, (text, label) in enumerate(reviews):
            path = root / f"aclImdb/{split}/{('neg', 'pos')[label]}/{number}_{9 if label else 2}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, newline="")
            (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7 macOS")


def write_csvs(root: Path, _) -> None:
    (root / "imdb").mkdir(parents=True)
    for split, reviews in REVIEWS.items():
        with open(root / f"imdb/{split}.csv", "w", newline="", encoding="utf-8-sig") as stream:
            csv.writer(stream).writerows([("Label", "Text"), *((label, text) for text, label in reviews)])


def write_kaggle(root: Path, _) -> None:
    """As Kaggle distributes it: archive.zip with one CSV."""
    root.mkdir()
    path = root / "made.csv"
    with open(path, "w", newline="") as stream:
        names = ("negative", "positive")
        rows = [(text, names[label]) for split in ("train", "test") for text, label in REVIEWS[split]]
        csv.writer(stream).writerows([("review", "sentiment"), *rows])
    with zipfile.ZipFile(root / "archive.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.write(path, "IMDB Dataset.csv")
    path.unlink()


def tables() -> dict[str, pa.Table]:
    """The reviews in another order than in the files."""
    return {
        split: pa.table({"text": [text for text, _ in reviews[::-1]], "label": [y for _, y in reviews[::-1]]})
        for split, reviews in REVIEWS.items()
    }


def write_s4(root: Path, packing) -> None:
    data = {
        split: pa.table(
            {
                "input_ids": [documents[0] for documents, _ in EXAMPLES[split]],
                "label": [label for _, label in EXAMPLES[split]],
            }
        )
        for split in ("train", "test")
    }
    name = "l_max-4096-level-char-min_freq-15-append_bos-False-append_eos-True"
    packing.tables(root / "imdb/cache" / name, data, "saved")


WRITERS = {
    "aclImdb": write_acl,
    "Hugging Face Parquet": lambda root, packing: packing.tables(
        root / "hub/datasets--stanfordnlp--imdb/snapshots/e6281661/plain_text", tables(), "parquet"
    ),
    "Hugging Face save_to_disk": lambda root, packing: packing.tables(root / "imdb", tables(), "saved"),
    "Hugging Face cache": lambda root, packing: packing.tables(
        root / "datasets/stanfordnlp___imdb/plain_text/0.0.0/e6281661", tables(), "cached"
    ),
    "CSV files": write_csvs,
    "Kaggle CSV": write_kaggle,
    "Skyformer pickles": lambda root, packing: packing.pickles(root / "lra_processed", "lra-text", EXAMPLES),
    "Nystromformer pickles": lambda root, packing: packing.pickles(root / "datasets", "text", EXAMPLES),
    "MEGA packed text": lambda root, packing: packing.mega(root / "lra/imdb", EXAMPLES),
    "S4 cache": write_s4,
    "npz": lambda root, packing: packing.npz(root, EXAMPLES, "imdb_"),
    "files by name": None,
}


def test_every_registered_format_is_tested():
    assert list(WRITERS) == [each.name for each in FORMATS]


@pytest.fixture
def expected_fingerprint(tmp_path):
    write_acl(tmp_path / "reference", None)
    return prepare("text", root=tmp_path / "reference", cache=tmp_path / "cache").fingerprint


def texts(*splits) -> list[tuple[str, int]]:
    return sorted((decode(split[row][0][0]), split[row][1]) for split in splits for row in range(len(split)))


@pytest.mark.parametrize("format_name", [name for name, write in WRITERS.items() if write])
def test_every_format_gives_the_same_rows_and_fingerprint(
    format_name, tmp_path, packing, expected_fingerprint
):
    WRITERS[format_name](tmp_path / "root", packing)
    prepared = prepare("text", root=tmp_path / "root", cache=tmp_path / "cache")
    assert prepared.info.conventions["source"] == format_name
    assert (len(prepared.train), len(prepared.validation), prepared.records["test"].rows) == (54, 6, 60)
    assert texts(prepared.train, prepared.validation) == sorted(REVIEWS["train"])
    assert prepared.fingerprint == expected_fingerprint
    (finding,) = [each for each in find_sources(tmp_path / "root", tmp_path / "cache") if each.task == "text"]
    assert (finding.form, finding.missing, finding.status) == (format_name, (), "ready")


def test_kaggle_split_is_recorded(tmp_path):
    write_kaggle(tmp_path / "root", None)
    prepared = prepare("text", root=tmp_path / "root/archive.zip", cache=tmp_path / "cache")
    assert "first half train" in prepared.info.conventions["split"]


def test_files_passed_by_name_are_read_including_validation(tmp_path, packing):
    write_csvs(tmp_path, None)
    packing.pickles(tmp_path, "other", {"train": EXAMPLES["train"][:10]})
    files = {
        "train": tmp_path / "imdb/train.csv",
        "validation": tmp_path / "other.train.pickle",
        "test": tmp_path / "imdb/test.csv",
    }
    prepared = prepare("text", files=files, cache=tmp_path / "cache")
    assert texts(prepared.validation) == sorted(REVIEWS["train"][:10])
    assert prepared.info.conventions["validation"] == "the copy's own split of 10 reviews"
    del files["validation"]
    assert len(prepare("text", files=files, cache=tmp_path / "cache").validation) == 6


@pytest.mark.parametrize("damage", ["overwritten", "truncated"])
def test_folder_takes_precedence_over_damaged_archive(damage, tmp_path, monkeypatch, expected_fingerprint):
    write_acl(tmp_path / "root", None)
    (tmp_path / "root/aclImdb_v1.tar.gz").write_bytes(b"\x1f\x8b" if damage == "truncated" else b"x" * 99)
    monkeypatch.setattr(
        "proxytune.datasets.archives._read_index", lambda archive: pytest.fail(f"{archive} was opened")
    )
    assert (
        prepare("text", root=tmp_path / "root", cache=tmp_path / "cache").fingerprint == expected_fingerprint
    )
    assert [finding.task for finding in find_sources(tmp_path / "root")] == ["text"]


def test_damaged_archive_is_reported_without_other_data(tmp_path):
    (tmp_path / "aclImdb_v1.tar.gz").write_bytes(b"x" * 99)
    with pytest.raises(DataError, match=r"aclImdb_v1\.tar\.gz: truncated, damaged or no archive") as error:
        prepare("text", root=tmp_path, cache=tmp_path / "cache")
    assert len(str(error.value).splitlines()) <= 3


def test_archive_with_a_link_as_data_file_is_rejected(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "imdb.tar.gz", "w:gz") as tar:
        for name in ("train.csv", "test.csv"):
            member = tarfile.TarInfo(f"imdb/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    with pytest.raises(DataError, match=r"member 'imdb/train\.csv' is a link; refused"):
        prepare("text", root=tmp_path, cache=tmp_path / "cache")


def test_csv_without_header_and_in_any_case_is_read(tmp_path):
    write_csvs(tmp_path / "reference", None)
    reference = prepare("text", root=tmp_path / "reference", cache=tmp_path / "cache")
    (tmp_path / "root").mkdir()
    for split in ("train", "test"):
        _, rows = (tmp_path / f"reference/imdb/{split}.csv").read_text().split("\n", 1)
        (tmp_path / f"root/{split.title()}.CSV").write_text(rows)
    prepared = prepare("text", root=tmp_path / "root", cache=tmp_path / "cache")
    assert prepared.fingerprint == reference.fingerprint


def test_missing_class_folder_is_accepted_only_as_partial(tmp_path):
    write_acl(tmp_path / "root", None)
    shutil.rmtree(next((tmp_path / "root").rglob("train/neg")))
    with pytest.raises(DataError, match=r"missing: .*train/neg.*\n.*set task\.partial: true"):
        prepare("text", root=tmp_path / "root", cache=tmp_path / "cache")
    partial = prepare("text", root=tmp_path / "root", cache=tmp_path / "cache", partial=True)
    assert "the train split has one class only" in partial.info.conventions["partial"]


@pytest.mark.parametrize("archived", [False, True])
def test_error_names_data_in_a_deeper_folder(archived, tmp_path):
    write_csvs(tmp_path / "root/a/b", None)
    root = tmp_path / "root"
    if archived:
        root = Path(shutil.make_archive(str(tmp_path / "copy"), "zip", tmp_path / "root"))
    with pytest.raises(DataError, match=r"which holds a\n.*a/b.* looks like it") as error:
        prepare("text", root=root, cache=tmp_path / "cache")
    assert len(str(error.value).splitlines()) == 2


def test_incomplete_folder_and_damaged_archive_are_both_reported(tmp_path):
    write_csvs(tmp_path, None)
    (tmp_path / "imdb/test.csv").unlink()
    (tmp_path / "imdb.zip").write_bytes(b"x" * 99)
    with pytest.raises(DataError, match=r"missing: imdb/test\.csv.*\n.*imdb\.zip: truncated") as error:
        prepare("text", root=tmp_path, cache=tmp_path / "cache")
    assert len(str(error.value).splitlines()) == 3
