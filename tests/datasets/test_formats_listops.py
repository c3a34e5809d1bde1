"""ListOps: every registered format gives the same rows, found in folders or passed by name."""

import csv
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from proxytune.datasets import DataError, find_sources, prepare
from proxytune.datasets.listops import FORMATS, encode

SPLITS = ("train", "validation", "test")
ROWS = {
    split: [(f"( ( ( ( [SM {a} ) {b} ) {c} ) ] )", (a + b + c) % 10) for a in range(3) for b in range(8)]
    for c, split in enumerate(SPLITS)
}
EXAMPLES = {
    split: [((encode(source.encode()).tolist(),), label) for source, label in rows]
    for split, rows in ROWS.items()
}


def tables(source: str = "Source", target: str = "Target") -> dict[str, pa.Table]:
    return {
        split: pa.table({source: [text for text, _ in rows], target: [label for _, label in rows]})
        for split, rows in ROWS.items()
    }


def write_tsv(root: Path, validation: str = "val", prefix: str = "basic_", end: str = "\r\n") -> None:
    root.mkdir(parents=True, exist_ok=True)
    for split, rows in ROWS.items():
        lines = ["Source\tTarget", *(f"{source}\t{label}" for source, label in rows)]
        name = validation if split == "validation" else split
        (root / f"{prefix}{name}.tsv").write_text(end.join([*lines, ""]), newline="")


def write_csv(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for split, rows in ROWS.items():
        with open(root / f"{split}.csv", "w", newline="", encoding="utf-8-sig") as stream:
            csv.writer(stream).writerows([("target", "source"), *((label, source) for source, label in rows)])


def write_s4(root: Path, packing) -> None:
    """S4's ids: <pad> 0, <unk> 1, <eos> 2, then tokens by frequency; each row ends with <eos>."""
    data = {
        {"validation": "val"}.get(split, split): pa.table(
            {
                "input_ids": [[id_ + 2 for id_ in documents[0]] + [2] for documents, _ in rows],
                "Target": [label for _, label in rows],
            }
        )
        for split, rows in EXAMPLES.items()
    }
    packing.tables(root / "l_max-2048-append_bos-False-append_eos-True", data, "saved")


WRITERS = {
    "official TSV": lambda root, packing: write_tsv(root / "lra_release/listops-1000"),
    "renamed TSV": lambda root, packing: write_tsv(root / "data/listops", "dev", prefix="", end="\n"),
    "Hugging Face Parquet": lambda root, packing: packing.tables(
        root / "datasets--x--listops-1000/snapshots/7e315de", tables(), "parquet"
    ),
    "Hugging Face save_to_disk": lambda root, packing: packing.tables(root, tables(), "saved"),
    "Hugging Face cache": lambda root, packing: packing.tables(
        root / "parquet/default-1/0.0.0/2", tables("source", "TARGET"), "cached"
    ),
    "Skyformer pickles": lambda root, packing: packing.pickles(
        root / "data/lra_processed", "lra-listops", EXAMPLES
    ),
    "Nystromformer pickles": lambda root, packing: packing.pickles(root, "listops", EXAMPLES),
    "MEGA packed text": lambda root, packing: packing.mega(root / "lra/listops", EXAMPLES),
    "S4 cache": write_s4,
    "npz": lambda root, packing: packing.npz(root / "data/lra/listops", EXAMPLES),
    "files by name": None,
}
KEEPS_IDS = {name for name in WRITERS if name not in ("S4 cache",)}


def content(split) -> list[tuple[list[int], int]]:
    return [(split[row][0][0].tolist(), split[row][1]) for row in range(len(split))]


EXPECTED = {split: [(documents[0], label) for documents, label in rows] for split, rows in EXAMPLES.items()}


def test_every_registered_format_is_tested():
    assert list(WRITERS) == [each.name for each in FORMATS]


@pytest.fixture
def expected_fingerprint(tmp_path):
    write_tsv(tmp_path / "reference")
    return prepare("listops", root=tmp_path / "reference", cache=tmp_path / "cache").fingerprint


@pytest.mark.parametrize("format_name", [name for name, write in WRITERS.items() if write])
def test_every_format_gives_the_same_rows_and_fingerprint(
    format_name, tmp_path, packing, expected_fingerprint
):
    WRITERS[format_name](tmp_path / "root", packing)
    (tmp_path / "root/._basic_train.tsv").write_bytes(b"\0\5\x16\7 macOS")
    prepared = prepare("listops", root=tmp_path / "root", cache=tmp_path / "cache")
    assert prepared.info.conventions["source"] == format_name
    if format_name in KEEPS_IDS:
        assert content(prepared.train) == EXPECTED["train"]
        assert content(prepared.validation) == EXPECTED["validation"]
        assert prepared.fingerprint == expected_fingerprint
    else:
        assert [(ids[:-1], label) for ids, label in content(prepared.train)] == [
            ([id_ + 2 for id_ in ids], label) for ids, label in EXPECTED["train"]
        ]
    (finding,) = [
        each for each in find_sources(tmp_path / "root", tmp_path / "cache") if each.task == "listops"
    ]
    assert (finding.form, finding.missing, finding.status) == (format_name, (), "ready")


@pytest.mark.parametrize("validation", ["val", "valid", "dev", "validation"])
def test_validation_file_names_are_recognized(validation, tmp_path):
    write_tsv(tmp_path, validation)
    prepared = prepare("listops", root=tmp_path, cache=tmp_path / "cache")
    assert content(prepared.validation) == EXPECTED["validation"]
    assert prepared.info.conventions["validation"] == "the files' own split"


def test_csv_content_in_tsv_file_is_read(tmp_path, expected_fingerprint):
    write_csv(tmp_path / "listops")
    (tmp_path / "listops/test.csv").rename(tmp_path / "listops/test.tsv")
    prepared = prepare("listops", root=tmp_path, cache=tmp_path / "cache")
    assert prepared.fingerprint == expected_fingerprint


def test_zip_of_a_folder_is_read(tmp_path, expected_fingerprint):
    write_tsv(tmp_path / "made")
    with zipfile.ZipFile(tmp_path / "ListOps.ZIP", "w") as zipped:
        for path in (tmp_path / "made").iterdir():
            zipped.write(path, f"listops-1000/{path.name}")
    (tmp_path / "made").rename(tmp_path / "elsewhere")
    for root in (tmp_path, tmp_path / "ListOps.ZIP"):
        assert prepare("listops", root=root, cache=tmp_path / "cache").fingerprint == expected_fingerprint


def test_mega_files_with_words_instead_of_ids_are_read(tmp_path, packing, expected_fingerprint):
    packing.mega(tmp_path / "lra/listops", EXAMPLES)
    for split, rows in ROWS.items():
        name = "valid" if split == "validation" else split
        (tmp_path / f"lra/listops/input/{name}.src").write_text("".join(f"{text}\n" for text, _ in rows))
    prepared = prepare("listops", root=tmp_path, cache=tmp_path / "cache")
    assert prepared.fingerprint == expected_fingerprint


def test_mega_expressions_are_evaluated_and_checked(tmp_path):
    for kind, text in (("input", "[MAX 2 9 ]\n[MIN 2 9 ]\n"), ("label", "9\n9\n")):
        (tmp_path / "lra/listops" / kind).mkdir(parents=True)
        for split in ("train", "valid", "test"):
            suffix = "src" if kind == "input" else "label"
            (tmp_path / f"lra/listops/{kind}/{split}.{suffix}").write_text(text)
    with pytest.raises(
        DataError, match=r"train\.src, line 2: the expression has the value 2, its target is 9"
    ):
        prepare("listops", root=tmp_path, cache=tmp_path / "cache")


def test_mega_ids_beyond_the_protocol_vocabulary_are_kept(tmp_path, packing):
    examples = {split: [(([40, 93, 41],), 0), (([49],), 1)] for split in SPLITS}
    packing.mega(tmp_path / "listops", examples)
    prepared = prepare("listops", root=tmp_path, cache=tmp_path / "cache")
    assert content(prepared.train) == [([40, 93, 41], 0), ([49], 1)]
    assert prepared.info.conventions["tokens"] == "ids as packed, their order unknown"


@pytest.mark.parametrize("kind", ["tsv", "parquet", "npz", "pickle"])
def test_files_passed_by_name_are_read(kind, tmp_path, packing, expected_fingerprint):
    if kind == "tsv":
        write_tsv(tmp_path / "root", "x")
        names = {"train": "basic_train.tsv", "validation": "basic_x.tsv", "test": "basic_test.tsv"}
    elif kind == "parquet":
        (tmp_path / "root").mkdir()
        for split, table in tables().items():
            pq.write_table(table, tmp_path / f"root/my {split}.parquet")
        names = {split: f"my {split}.parquet" for split in SPLITS}
    elif kind == "npz":
        packing.npz(tmp_path / "root", EXAMPLES, "any_")
        names = {"train": "any_train.npz", "validation": "any_val.npz", "test": "any_test.npz"}
    else:
        packing.pickles(tmp_path / "root", "mine", EXAMPLES)
        names = {"train": "mine.train.pickle", "validation": "mine.dev.pickle", "test": "mine.test.pickle"}
    files = {split: tmp_path / "root" / name for split, name in names.items()}
    prepared = prepare("listops", files=files, cache=tmp_path / "cache")
    source = {"npz": "npz by name", "pickle": "pickles by name"}.get(kind, "files by name")
    assert prepared.info.conventions["source"] == source
    assert ("unknown" in prepared.info.conventions["tokens"]) == (source != "files by name")
    assert prepared.fingerprint == expected_fingerprint


@pytest.mark.realdata
def test_official_rows_passed_by_name_are_read(real_file, tmp_path):
    folder = "listops_official_rows"
    train, test = (
        real_file(f"{folder}/{name}") for name in ("basic_train.row1.tsv", "basic_test.one_row.tsv")
    )
    (tmp_path / "validation.tsv").write_text("( ( ( [MAX 2 ) 9 ) ] )\t9\n")
    files = {"train": train, "validation": tmp_path / "validation.tsv", "test": test}
    prepared = prepare("listops", files=files, cache=tmp_path / "cache", partial=True)
    assert prepared.info.conventions["rows"].startswith("1 of 96,000 train rows")
    assert np.all(prepared.train.lengths > 500)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train": "a.tsv"}, "task.files names train; listops takes train, validation, test"),
        (
            {"train": "a.tsv", "validation": "b.tsv", "test": "c.tsv"},
            "task.files.train: .*a.tsv does not exist",
        ),
        ({"train": ".", "validation": "b.tsv", "test": "c.tsv"}, "task.files.train: .* is a folder"),
        ({"train": "a.tsv", "validation": "b.tsv", "test": "b.tsv"}, "one file for two splits"),
        ({"tran": "a.tsv"}, "task.files names tran"),
    ],
)
def test_invalid_file_names_raise_one_line_error(files, message, tmp_path):
    with pytest.raises(DataError, match=message) as error:
        prepare("listops", files={key: tmp_path / name for key, name in files.items()}, cache=tmp_path)
    assert "\n" not in str(error.value)
