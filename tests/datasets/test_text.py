"""Text: the real reviews from the archive, the folder layout, and the source of the validation split."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxytune.datasets import DataError, prepare
from proxytune.datasets.locating import find_source
from proxytune.datasets.text import Text, decode, encode


@given(st.text(min_size=1))
def test_encode_decode_round_trip(text):
    ids = encode(text.encode())
    assert ids.min() >= 1
    assert ids.max() <= 256
    assert decode(ids) == text


def review(split: str, label: str, number: int) -> tuple[str, bytes]:
    return (
        f"{split}/{label}/{number}_{9 if label == 'pos' else 2}.txt",
        f"{split} {label} {number} é<br />".encode(),
    )


REVIEWS = dict(
    review(split, label, number)
    for split in ("train", "test")
    for label in ("pos", "neg")
    for number in range(40)
)
EXTRAS = {
    "train/unsup/0_0.txt": b"unlabelled",
    "train/urls_pos.txt": b"http",
    "train/labeledBow.feat": b"9 0:1",
    "imdb.vocab": b"the",
    "README": b"",
}


def write_folder(root: Path) -> None:
    for name, content in {**REVIEWS, **EXTRAS}.items():
        path = root / "aclImdb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_archive(root: Path) -> None:
    with tarfile.open(root / "aclImdb_v1.tar.gz", "w:gz") as tar:
        for name, content in reversed({**REVIEWS, **EXTRAS}.items()):
            member = tarfile.TarInfo(f"aclImdb/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def texts(split) -> list[tuple[str, int]]:
    return [(decode(split[row][0][0]), split[row][1]) for row in range(len(split))]


def test_folder_and_archive_give_the_same_splits(tmp_path):
    for name, write in (("folder", write_folder), ("archive", write_archive)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    folder, archive = (
        prepare("text", root=tmp_path / name, cache=tmp_path) for name in ("folder", "archive")
    )
    assert texts(folder.train) == texts(archive.train)
    assert texts(folder.validation) == texts(archive.validation)
    train, validation = texts(folder.train), texts(folder.validation)
    assert (len(train), len(validation), folder.records["test"].rows) == (72, 8, 80)
    assert not set(train) & set(validation)
    assert sum(label for _, label in validation) == 4
    assert all(text.startswith("train pos" if label else "train neg") for text, label in train + validation)
    assert [label for _, label in train] != sorted(label for _, label in train)
    assert {text for text, _ in train + validation} == {
        content.decode() for name, content in REVIEWS.items() if name.startswith("train")
    }


def test_official_validation_split_is_selected_and_recorded(tmp_path):
    write_folder(tmp_path)
    prepared = prepare("text", root=tmp_path, cache=tmp_path / "cache", validation="test")
    assert len(prepared.train) == 80
    assert all(text.startswith("test") for text, _ in texts(prepared.validation))
    assert prepared.info.conventions["validation"] == "the test split (official)"


def test_texts_are_truncated_to_max_length(tmp_path):
    write_folder(tmp_path)
    prepared = prepare("text", root=tmp_path / "aclImdb", cache=tmp_path / "cache", max_length=8)
    assert prepared.info.max_length == 8
    assert {len(text) for text, _ in texts(prepared.train)} == {8}


def test_empty_review_is_rejected(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "aclImdb/test/neg/7_2.txt").write_bytes(b"")
    with pytest.raises(DataError, match=r"test/neg/7_2\.txt: empty review"):
        prepare("text", root=tmp_path, cache=tmp_path / "cache")


def test_incomplete_folder_error_lists_missing_files(tmp_path):
    (tmp_path / "aclImdb/train/pos").mkdir(parents=True)
    (tmp_path / "aclImdb/train/pos/0_9.txt").write_text("good")
    with pytest.raises(DataError, match=r"missing: .*aclImdb/train/neg.*aclImdb/test/neg"):
        find_source(Text(), tmp_path)


@pytest.mark.slow
@pytest.mark.realdata
def test_all_real_reviews_are_read(real_file, tmp_path):
    prepared = prepare("text", root=real_file("aclImdb_v1.tar.gz"), cache=tmp_path)
    assert (len(prepared.train), len(prepared.validation), prepared.records["test"].rows) == (
        22_500,
        2_500,
        25_000,
    )
    assert prepared.train.labels.mean() == prepared.validation.labels.mean() == 0.5
    assert prepared.train.lengths.max() == 4000
    train = texts(prepared.train)
    assert any("<br />" in text for text, _ in train)
    prepared.verify()
