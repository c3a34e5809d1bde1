"""Packed ids and tables: how they are interpreted, and the errors for invalid and damaged files."""

import csv
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxytune.datasets import DataError, find_sources, prepare

REVIEWS = [
    (f'review {number} of class {number % 2}, é\n"quoted", {"x" * number}', number % 2)
    for number in range(60)
]


def ids_of(text: str, length: int) -> np.ndarray:
    ids = np.zeros(length, np.int32)
    encoded = np.frombuffer(text.encode(), np.uint8) + np.int32(1)
    ids[: len(encoded)] = encoded
    return ids


def write_pickles(folder: Path, name: str, splits: dict[str, list[dict]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, examples in splits.items():
        (folder / f"{name}.{split}.pickle").write_bytes(pickle.dumps(examples))


def text_parquet(root: Path) -> None:
    (root / "plain_text").mkdir()
    for split in ("train", "test"):
        table = pa.table({"text": [text for text, _ in REVIEWS], "label": [label for _, label in REVIEWS]})
        pq.write_table(table.slice(0, 30), root / f"plain_text/{split}-00000-of-00002.parquet")
        pq.write_table(table.slice(30), root / f"plain_text/{split}-00001-of-00002.parquet")


def text_arrow(root: Path) -> None:
    table = pa.table({"text": [text for text, _ in REVIEWS], "label": [label for _, label in REVIEWS]})
    with pa.ipc.new_stream(str(root / "imdb-train.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_file(str(root / "imdb-test.arrow"), table.schema) as writer:
        writer.write_table(table)


def text_mega(root: Path) -> None:
    for kind in ("input", "label"):
        (root / "lra/imdb" / kind).mkdir(parents=True)
    for split in ("train", "valid", "test"):
        lines = [" ".join(map(str, ids_of(text, 100)[: len(text.encode())])) for text, _ in REVIEWS]
        (root / f"lra/imdb/input/{split}.src").write_text("\n".join(lines) + "\n")
        (root / f"lra/imdb/label/{split}.label").write_text(
            "\n".join(str(label) for _, label in REVIEWS) + "\n"
        )


@pytest.mark.parametrize("black_is_padding", [True, False])
def test_packed_images_keep_black_pixels(black_is_padding, tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 1024)).astype(np.int32)
    images[:, -50:] = 0
    examples = [{"input_ids_0": image, "label": row % 2} for row, image in enumerate(images)]
    write_pickles(
        tmp_path,
        "lra-pathfinder32-curv_contour_length_14",
        {"train": examples, "dev": examples, "test": examples},
    )
    prepared = prepare("pathfinder", root=tmp_path, cache=tmp_path / "c", black_is_padding=black_is_padding)
    for row, image in enumerate(images):
        assert np.array_equal(prepared.train[row][0][0], image + (0 if black_is_padding else 1))


def test_packed_listops_ids_are_recorded_as_of_unknown_order(tmp_path):
    examples = [{"input_ids_0": np.array([16, 3, 2, 0, 0]), "label": label} for label in (4, 5)]
    write_pickles(tmp_path, "lra-listops", {"train": examples, "dev": examples, "test": examples})
    prepared = prepare("listops", root=tmp_path, cache=tmp_path / "cache")
    assert prepared.train[0][0][0].tolist() == [16, 3, 2]
    assert prepared.info.conventions["tokens"] == "ids as packed, their order unknown"
    assert prepared.info.vocab_size == 32


def test_parquet_files_of_another_task_are_not_used(tmp_path):
    text_parquet(tmp_path)
    (tmp_path / "plain_text").rename(tmp_path / "data")
    assert {finding.task for finding in find_sources(tmp_path)} == {"text"}
    with pytest.raises(DataError, match="no listops data"):
        prepare("listops", root=tmp_path, cache=tmp_path / "cache")


# --- invalid input ---------------------------------------------------------------------------------------


def test_duplicate_row_in_two_splits_is_rejected(tmp_path):
    for name in ("train", "val", "test"):
        (tmp_path / f"basic_{name}.tsv").write_text(
            "( ( ( [MAX 1 ) 2 ) ] )\t2\n".join(["Source\tTarget\n", ""])
        )
    with pytest.raises(
        DataError, match=r"basic_val\.tsv, line 2: the same expression as .*basic_train\.tsv, line 2"
    ):
        prepare("listops", root=tmp_path, cache=tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "label/train.label").write_text("1\n0\n"), "line 3: 2 labels"),
        (
            lambda folder: (folder / "label/train.label").write_text("1\nnan\n"),
            "line 2: label nan is not a whole number",
        ),
        (lambda folder: (folder / "input/train.src").write_text("1 2\n3 x\n"), "line 2: not only integers"),
        (lambda folder: (folder / "input/train.src").write_text("1 2\n3 999\n" + "1\n" * 58), "token id 999"),
        (lambda folder: (folder / "input/test.src").unlink(), r"missing: lra/imdb/input/test\.src"),
    ],
)
def test_invalid_mega_file_is_rejected(change, message, tmp_path):
    text_mega(tmp_path)
    change(tmp_path / "lra/imdb")
    with pytest.raises(DataError, match=message) as error:
        prepare("text", root=tmp_path, cache=tmp_path / "cache")
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ({"a": 1}, "a pickled dict"),
        ([{"input_ids_0": np.arange(3)}], "example 0 is not"),
        ([{"input_ids_0": np.zeros((2, 2), int), "label": 1}], "example 0"),
        ([{"input_ids_0": np.array([0.5]), "label": 1}], "example 0"),
        ([{"input_ids_0": np.array([1]), "label": 5}], "label 5, 0 and 1 are expected"),
        ([{"input_ids_0": np.array([-1]), "label": 1}], "token id -1 is negative"),
        ([{"input_ids_0": np.array([0, 0]), "label": 1}], "is empty"),
    ],
)
def test_invalid_pickle_is_rejected(examples, message, tmp_path):
    write_pickles(tmp_path, "text", {"train": examples, "dev": examples, "test": examples})
    with pytest.raises(DataError, match=message):
        prepare("text", root=tmp_path, cache=tmp_path / "cache")


def test_invalid_parquet_file_is_rejected(tmp_path):
    text_parquet(tmp_path)
    path = tmp_path / "plain_text/train-00000-of-00002.parquet"
    content = path.read_bytes()
    for bad, message in (
        (content[: len(content) // 2], "damaged"),
        (b"", "damaged"),
    ):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=message) as error:
            prepare("text", root=tmp_path, cache=tmp_path / "cache")
        assert path.name in str(error.value)
    pq.write_table(pa.table({"text": ["a", None], "label": [0, 1]}), path)
    with pytest.raises(DataError, match="row 2: an empty cell"):
        prepare("text", root=tmp_path, cache=tmp_path / "cache")
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 7]}), path)
    with pytest.raises(DataError, match="row 2: label 7"):
        prepare("text", root=tmp_path, cache=tmp_path / "cache")


def test_invalid_csv_row_is_rejected_with_its_line(tmp_path):
    (tmp_path / "IMDB Dataset.csv").write_text("review,sentiment\ngood,positive\nbad\n")
    with pytest.raises(DataError, match="line 3: 1 columns, the header has 2"):
        prepare("text", root=tmp_path, cache=tmp_path / "cache")


@given(st.lists(st.tuples(st.text(min_size=1, max_size=40), st.booleans()), min_size=1, max_size=20))
def test_csv_round_trip(pairs):
    import io

    from proxytune.datasets.tables import read_table

    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["sentiment", "review"])
    writer.writerows((str(label), text) for text, label in pairs)
    stream = io.BytesIO(buffer.getvalue().encode("utf-8", "surrogatepass"))
    read = [values for _, values in read_table(stream, "f.csv", (("review",), ("sentiment",)))]
    assert read == [(text, str(label)) for text, label in pairs]


def test_damaged_arrow_input_raises_data_error_and_never_crashes(tmp_path):
    """Bits of offsets, lengths and text are flipped: either DataError, or rows that pass Arrow's full validation."""
    (tmp_path / "root").mkdir()
    text_arrow(tmp_path / "root")
    path = tmp_path / "root/imdb-test.arrow"
    good = path.read_bytes()
    rejected = 0
    for number, position in enumerate(range(8, len(good), 97)):
        bad = bytearray(good)
        bad[position] ^= 0x80
        path.write_bytes(bad)
        try:
            prepare("text", root=tmp_path / "root", cache=tmp_path / f"cache{number}")
        except DataError as error:
            rejected += "imdb-test.arrow" in str(error)
    assert rejected > 5


# --- labels, ids and arrays ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"input_ids_0": np.array([3, -7]), "label": 1}, r"example 0: token id -7 is negative"),
        ({"input_ids_0": np.array([3]), "label": 0.5}, r"example 0: label 0.5 is not a whole number"),
        ({"input_ids_0": np.array([3]), "label": -1}, r"example 0: label -1 is negative"),
        ({"input_ids_0": np.array([3]), "label": "cat"}, r"example 0: label 'cat' is not a number"),
        ({"input_ids_0": np.array([0.25]), "label": 1}, r"example 0: ids of shape \(1,\) and type float64"),
        ({"input_ids_0": [1.5, 2], "label": 1}, r"example 0: ids of shape \(2,\) and type float64"),
        ({"input_ids_0": ["a"], "label": 1}, r"example 0: list where numbers are expected"),
    ],
)
def test_invalid_ids_and_labels_are_reported_with_value_and_type(example, message, tmp_path):
    write_pickles(tmp_path, "listops", {split: [example, example] for split in ("train", "dev", "test")})
    with pytest.raises(DataError, match=message) as error:
        prepare("listops", root=tmp_path, cache=tmp_path / "cache")
    assert "listops.train.pickle" in str(error.value)
    assert "\n" not in str(error.value)


def test_fractional_ids_in_arrow_table_are_rejected(tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / "cache/l_max-2048" / split).mkdir(parents=True)
        table = pa.table({"input_ids": [[1.5, 2.0]], "Target": [1]})
        path = tmp_path / "cache/l_max-2048" / split / "data-00000-of-00001.arrow"
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(DataError, match=r"arrow, row 1: ids of shape \(2,\) and type float64"):
        prepare("listops", root=tmp_path, cache=tmp_path / "c")


def test_trailing_blank_lines_in_mega_files_are_skipped(tmp_path):
    text_mega(tmp_path)
    for path in tmp_path.rglob("*.[sl]*[cl]"):
        path.write_text(path.read_text() + "\n\n")
    prepared = prepare("text", root=tmp_path, cache=tmp_path / "cache")
    assert prepared.records["test"].rows == len(REVIEWS)


def test_integral_float_labels_are_accepted(tmp_path):
    rows = [{"input_ids_0": np.array([1, 2, label + 1]), "label": np.float64(label)} for label in (3, 4)]
    write_pickles(tmp_path, "listops", dict.fromkeys(("train", "dev", "test"), rows))
    prepared = prepare("listops", root=tmp_path, cache=tmp_path / "cache")
    assert prepared.train.labels.tolist() == [3, 4]


GOOD = {"inputs": np.ones((2, 5), int), "labels": np.array([0, 1])}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GOOD["inputs"]}, "it has x; arrays inputs and labels are expected"),
        (
            {"inputs": np.ones((3, 5), int), "labels": [0, 1]},
            r"arrays of shape inputs \(3, 5\), labels \(2,\)",
        ),
        ({**GOOD, "inputs": np.full((2, 5), 0.5)}, "example 0: ids of shape .* and type float64"),
        ({**GOOD, "labels": [0, 0.5]}, "example 1: label 0.5 is not a whole number"),
        ({**GOOD, "inputs": np.full((2, 5), -1)}, "example 0: token id -1 is negative"),
        ({**GOOD, "labels": np.array([{}, {}])}, "of object"),
    ],
)
def test_invalid_npz_arrays_are_rejected(arrays, message, tmp_path):
    for name in ("train", "val", "test"):
        np.savez(tmp_path / f"listops_{name}.npz", **arrays)
    with pytest.raises(DataError, match=message) as error:
        prepare("listops", root=tmp_path, cache=tmp_path / "cache")
    assert "listops_train.npz" in str(error.value)


def test_npz_with_oversized_shape_is_rejected_before_allocation(tmp_path):
    import io
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<i8", "fortran_order": False, "shape": (1 << 40, 1 << 10)}
    )
    with zipfile.ZipFile(tmp_path / "train.npz", "w") as zipped:
        zipped.writestr("inputs.npy", header.getvalue())
    for name in ("val", "test"):
        np.savez(tmp_path / f"{name}.npz", **GOOD)
    with pytest.raises(DataError, match=r"train\.npz: array inputs\.npy of int64 and shape"):
        prepare("listops", root=tmp_path, cache=tmp_path / "cache")
    (tmp_path / "train.npz").write_bytes(b"PK not a zip")
    with pytest.raises(DataError, match=r"train\.npz: File is not a zip file"):
        prepare("listops", root=tmp_path, cache=tmp_path / "cache")


def test_control_characters_in_error_messages_are_escaped(tmp_path):
    folder = tmp_path / "a\x1b[31mred"
    folder.mkdir()
    for name in ("train", "val", "test"):
        (folder / f"basic_{name}.tsv").write_text("( ( [\x1b]0;title\x07 2 ) ] )\t2\n")
    with pytest.raises(DataError) as error:
        prepare("listops", root=folder, cache=tmp_path / "cache")
    assert "\x1b" not in str(error.value)
    assert r"a\x1b[31mred" in str(error.value)


@given(st.text(max_size=30))
def test_printable_keeps_printable_text_and_escapes_the_rest(text):
    from proxytune.datasets.errors import printable

    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text
