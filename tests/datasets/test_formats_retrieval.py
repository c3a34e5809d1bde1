"""Retrieval: every registered format gives the same pairs."""

from pathlib import Path

import pyarrow as pa
import pytest

from proxytune.datasets import DataError, find_sources, prepare
from proxytune.datasets.retrieval import FORMATS
from proxytune.datasets.text import decode

SPLITS = ("train", "validation", "test")
# Separate text files also contain bytes literals, so that all formats contain the same bytes.
PAPERS = {f"P{number}": repr(f"{'text ' * number}é".encode()) for number in range(1, 8)}
PAIRS = {
    split: [(f"P{a}", f"P{b}", (a + b + c) % 2) for a in range(1, 8) for b in range(1, 4)]
    for c, split in enumerate(SPLITS)
}
EXAMPLES = {
    split: [
        (tuple([byte + 1 for byte in PAPERS[paper].encode()] for paper in (first, second)), label)
        for first, second, label in pairs
    ]
    for split, pairs in PAIRS.items()
}


def write_tsv(root: Path, pattern: str, validation: str = "eval") -> None:
    root.mkdir(parents=True)
    for split, pairs in PAIRS.items():
        name = validation if split == "validation" else split
        lines = [
            f"{y}.0\t{first}\t{second}\t{PAPERS[first]}\t{PAPERS[second]}\n" for first, second, y in pairs
        ]
        (root / pattern.format(name)).write_text("".join([*lines, "\n"]))


def write_ids(root: Path) -> None:
    (root / "papers_text").mkdir(parents=True)
    for paper, text in PAPERS.items():
        (root / f"papers_text/{paper}.txt").write_text(text)
    for split, pairs in PAIRS.items():
        name = "eval" if split == "validation" else split
        lines = [f"{y} {first} {second}\r\n" for first, second, y in pairs]
        (root / f"new_aan_pairs.{name}.only_ids.tsv").write_text("".join(lines), newline="")


def write_s4(root: Path, packing) -> None:
    data = {
        {"validation": "val"}.get(split, split): pa.table(
            {
                "input_ids1": [documents[0] for documents, _ in rows],
                "input_ids2": [documents[1] for documents, _ in rows],
                "label": [label for _, label in rows],
            }
        )
        for split, rows in EXAMPLES.items()
    }
    packing.tables(root / "aan/l_max-4000-append_bos-False-append_eos-True", data, "saved")


WRITERS = {
    "AAN TSV": lambda root, packing: write_tsv(root / "lra_release/tsv_data", "new_aan_pairs.{}.tsv"),
    "renamed AAN TSV": lambda root, packing: write_tsv(root / "aan", "{}.tsv", "dev"),
    "AAN ids with texts beside": lambda root, packing: write_ids(root / "aan"),
    "Skyformer pickles": lambda root, packing: packing.pickles(root, "lra-retrieval", EXAMPLES),
    "Nystromformer pickles": lambda root, packing: packing.pickles(root, "retrieval", EXAMPLES),
    "S4 cache": write_s4,
    "npz": lambda root, packing: packing.npz(root / "lra/retrieval", EXAMPLES),
    "MEGA packed text": None,
    "files by name": None,
}


def content(split):
    return [(*(decode(ids) for ids in split[row][0]), split[row][1]) for row in range(len(split))]


EXPECTED = {
    split: [(PAPERS[first], PAPERS[second], y) for first, second, y in pairs]
    for split, pairs in PAIRS.items()
}


def test_every_registered_format_is_tested():
    assert list(WRITERS) == [each.name for each in FORMATS]


@pytest.mark.parametrize("format_name", [name for name, write in WRITERS.items() if write])
def test_every_format_gives_the_same_rows_and_fingerprint(format_name, tmp_path, packing):
    write_tsv(tmp_path / "reference", "new_aan_pairs.{}.tsv")
    reference = prepare("retrieval", root=tmp_path / "reference", cache=tmp_path / "cache")
    WRITERS[format_name](tmp_path / "root", packing)
    prepared = prepare("retrieval", root=tmp_path / "root", cache=tmp_path / "cache")
    assert prepared.info.conventions["source"] == format_name
    assert content(prepared.train) == EXPECTED["train"]
    assert content(prepared.validation) == EXPECTED["validation"]
    assert prepared.fingerprint == reference.fingerprint
    (finding,) = [each for each in find_sources(tmp_path / "root") if each.task == "retrieval"]
    assert (finding.form, finding.missing) == (format_name, ())


def test_files_passed_by_name_are_read(tmp_path):
    write_tsv(tmp_path / "root", "pairs of {}")
    names = {"train": "pairs of train", "validation": "pairs of eval", "test": "pairs of test"}
    files = {split: tmp_path / "root" / name for split, name in names.items()}
    assert content(prepare("retrieval", files=files, cache=tmp_path / "cache").train) == EXPECTED["train"]


def test_missing_paper_texts_are_reported(tmp_path):
    write_ids(tmp_path / "root/aan")
    for path in (tmp_path / "root/aan/papers_text").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"missing: aan/papers_text/\*\.txt") as error:
        prepare("retrieval", root=tmp_path / "root", cache=tmp_path / "cache")
    assert "AAN ids with texts beside" in str(error.value)
    (finding,) = [each for each in find_sources(tmp_path / "root") if each.task == "retrieval"]
    assert finding.status == "incomplete"


def test_mega_retrieval_format_is_recognized_and_rejected(tmp_path, packing):
    packing.mega(tmp_path / "root/lra/aan", EXAMPLES)
    with pytest.raises(
        DataError, match=r"cannot be read: both documents of a pair.*\nExpected: new_aan_pairs"
    ):
        prepare("retrieval", root=tmp_path / "root", cache=tmp_path / "cache")
    (finding,) = [each for each in find_sources(tmp_path / "root") if each.task == "retrieval"]
    assert (finding.form, finding.status) == ("MEGA packed text", "incomplete")


def test_header_line_is_skipped(tmp_path):
    write_tsv(tmp_path / "reference", "new_aan_pairs.{}.tsv")
    write_tsv(tmp_path / "root", "new_aan_pairs.{}.tsv")
    for path in (tmp_path / "root").iterdir():
        path.write_text("Label\tid1\tid2\ttext1\ttext2\n" + path.read_text())
    without, with_header = (
        prepare("retrieval", root=tmp_path / name, cache=tmp_path / "c") for name in ("reference", "root")
    )
    assert without.fingerprint == with_header.fingerprint


def test_pairs_without_text_are_dropped_only_as_partial(tmp_path):
    write_ids(tmp_path / "root/aan")
    next((tmp_path / "root/aan/papers_text").iterdir()).write_text("")
    with pytest.raises(DataError, match="no text for paper"):
        prepare("retrieval", root=tmp_path / "root", cache=tmp_path / "cache")
    prepared = prepare("retrieval", root=tmp_path / "root", cache=tmp_path / "cache", partial=True)
    assert len(prepared.train) < len(PAIRS["train"])
    assert "no text for paper" in prepared.info.conventions["partial"]
