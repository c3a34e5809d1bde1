"""Every form in which users have a task comes to the same rows as the original form."""

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
from proxytune.datasets.text import decode

REVIEWS = [
    (f'review {number} of class {number % 2}, é\n"quoted", {"x" * number}', number % 2)
    for number in range(60)
]


def rows(split) -> list[tuple[tuple[bytes, ...], int]]:
    return [
        (tuple(document.tobytes() for document in split[row][0]), split[row][1]) for row in range(len(split))
    ]


def texts(split) -> list[tuple[str, int]]:
    return [(decode(split[row][0][0]), split[row][1]) for row in range(len(split))]


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


def text_kaggle(root: Path) -> None:
    with open(root / "IMDB Dataset.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["review", "sentiment"])
        writer.writerows((text, ("negative", "positive")[label]) for text, label in REVIEWS + REVIEWS)


def text_pickles(root: Path) -> None:
    examples = [{"input_ids_0": ids_of(text, 4096), "label": np.int64(label)} for text, label in REVIEWS]
    write_pickles(root, "lra-text", {"train": examples, "dev": examples, "test": examples})


def text_mega(root: Path) -> None:
    for kind in ("input", "label"):
        (root / "lra/imdb" / kind).mkdir(parents=True)
    for split in ("train", "valid", "test"):
        lines = [" ".join(map(str, ids_of(text, 100)[: len(text.encode())])) for text, _ in REVIEWS]
        (root / f"lra/imdb/input/{split}.src").write_text("\n".join(lines) + "\n")
        (root / f"lra/imdb/label/{split}.label").write_text(
            "\n".join(str(label) for _, label in REVIEWS) + "\n"
        )


@pytest.mark.parametrize("write", [text_parquet, text_arrow, text_kaggle, text_pickles, text_mega])
def test_text_in_every_form(write, tmp_path):
    write(tmp_path)
    prepared = prepare("text", root=tmp_path, cache=tmp_path / "cache")
    train, validation = texts(prepared.train), texts(prepared.validation)
    assert sorted(train + validation) == sorted(REVIEWS)
    assert (len(train), len(validation), prepared.records["test"].rows) == (54, 6, 60)
    (finding,) = [finding for finding in find_sources(tmp_path) if finding.task == "text"]
    assert (finding.form, finding.missing) == (prepared.info.conventions["source"], ())


def test_the_kaggle_file_says_that_its_split_is_ours(tmp_path):
    text_kaggle(tmp_path)
    prepared = prepare("text", root=tmp_path, cache=tmp_path / "cache")
    assert "first half train" in prepared.info.conventions["split"]


def test_nystromformer_pickles_of_two_documents(tmp_path):
    random = np.random.default_rng(0)

    def example():
        documents = []
        for _ in range(2):
            ids = np.zeros(4096, np.int32)
            length = random.integers(1, 4000)
            ids[:length] = random.integers(1, 257, length)
            documents.append(ids)
        return {"input_ids_0": documents[0], "input_ids_1": documents[1], "label": int(random.integers(2))}

    examples = [example() for _ in range(30)]
    write_pickles(
        tmp_path / "pickles",
        "retrieval",
        {"train": examples[:10], "dev": examples[10:20], "test": examples[20:]},
    )
    prepared = prepare("retrieval", root=tmp_path, cache=tmp_path / "cache")
    for row, wanted in enumerate(examples[:10]):
        (one, two), label = prepared.train[row]
        assert label == wanted["label"]
        for document, key in ((one, "input_ids_0"), (two, "input_ids_1")):
            assert np.array_equal(document, wanted[key][: len(document)])
            assert not wanted[key][len(document) :].any()
            assert document[-1] != 0


@pytest.mark.parametrize("black_is_padding", [True, False])
def test_packed_pictures_keep_their_black_pixels(black_is_padding, tmp_path):
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (6, 1024)).astype(np.int32)
    pictures[:, -50:] = 0
    examples = [{"input_ids_0": picture, "label": row % 2} for row, picture in enumerate(pictures)]
    write_pickles(
        tmp_path,
        "lra-pathfinder32-curv_contour_length_14",
        {"train": examples, "dev": examples, "test": examples},
    )
    prepared = prepare("pathfinder", root=tmp_path, cache=tmp_path / "c", black_is_padding=black_is_padding)
    for row, picture in enumerate(pictures):
        assert np.array_equal(prepared.train[row][0][0], picture + (0 if black_is_padding else 1))


def test_listops_ids_of_unknown_order_say_so(tmp_path):
    examples = [{"input_ids_0": np.array([16, 3, 2, 0, 0]), "label": label} for label in (4, 5)]
    write_pickles(tmp_path, "lra-listops", {"train": examples, "dev": examples, "test": examples})
    prepared = prepare("listops", root=tmp_path, cache=tmp_path / "cache")
    assert prepared.train[0][0][0].tolist() == [16, 3, 2]
    assert prepared.info.conventions["tokens"] == "ids as packed, their order unknown"
    assert prepared.info.vocab_size == 32


def test_listops_parquet_equals_its_tsv(tmp_path):
    lines = {
        split: [f"( ( ( [MAX {a} ) {b} ) ] )" for b in range(9)]
        for a, split in enumerate(("train", "validation", "test"))
    }
    for form in ("tsv", "parquet"):
        (tmp_path / form / "listops").mkdir(parents=True)
    for split, sources in lines.items():
        targets = [str(max(int(line.split()[4]), int(line.split()[6]))) for line in sources]
        pq.write_table(
            pa.table({"Source": sources, "Target": list(map(int, targets))}),
            tmp_path / f"parquet/listops/{split}.parquet",
        )
        name = {"train": "train", "validation": "val", "test": "test"}[split]
        (tmp_path / f"tsv/listops/basic_{name}.tsv").write_text(
            "Source\tTarget\r\n" + "".join(f"{s}\t{t}\r\n" for s, t in zip(sources, targets, strict=True)),
            newline="",
        )
    one, other = (prepare("listops", root=tmp_path / form, cache=tmp_path) for form in ("tsv", "parquet"))
    assert rows(one.train) == rows(other.train)
    assert rows(one.validation) == rows(other.validation)


def test_another_tasks_parquet_is_not_taken(tmp_path):
    text_parquet(tmp_path)
    (tmp_path / "plain_text").rename(tmp_path / "data")
    assert {finding.task for finding in find_sources(tmp_path)} == {"text"}
    with pytest.raises(DataError, match="no listops data"):
        prepare("listops", root=tmp_path, cache=tmp_path / "cache")


# --- bad input -------------------------------------------------------------------------------------------


def test_a_row_in_two_splits_is_refused(tmp_path):
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
            "line 2: label nan is no whole number",
        ),
        (lambda folder: (folder / "input/train.src").write_text("1 2\n3 x\n"), "line 2: not only integers"),
        (lambda folder: (folder / "input/train.src").write_text("1 2\n3 999\n" + "1\n" * 58), "token id 999"),
        (lambda folder: (folder / "input/test.src").unlink(), r"missing: lra/imdb/input/test\.src"),
    ],
)
def test_bad_mega_files_are_named(change, message, tmp_path):
    text_mega(tmp_path)
    change(tmp_path / "lra/imdb")
    with pytest.raises(DataError, match=message) as error:
        prepare("text", root=tmp_path, cache=tmp_path / "cache")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ({"a": 1}, "a pickled dict"),
        ([{"input_ids_0": np.arange(3)}], "example 0 is no"),
        ([{"input_ids_0": np.zeros((2, 2), int), "label": 1}], "example 0"),
        ([{"input_ids_0": np.array([0.5]), "label": 1}], "example 0"),
        ([{"input_ids_0": np.array([1]), "label": 5}], "label 5, 0 and 1 are expected"),
        ([{"input_ids_0": np.array([-1]), "label": 1}], "token id -1 is negative"),
        ([{"input_ids_0": np.array([0, 0]), "label": 1}], "is empty"),
    ],
)
def test_bad_pickles_are_named(examples, message, tmp_path):
    write_pickles(tmp_path, "text", {"train": examples, "dev": examples, "test": examples})
    with pytest.raises(DataError, match=message):
        prepare("text", root=tmp_path, cache=tmp_path / "cache")


def test_bad_tables_are_named(tmp_path):
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


def test_a_bad_csv_row_is_named(tmp_path):
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


def test_no_damage_to_an_arrow_file_of_others_goes_past_or_crashes(tmp_path):
    """Offsets, lengths and text flipped all over: a clean error, or rows that Arrow's full validation lets pass."""
    (tmp_path / "root").mkdir()
    text_arrow(tmp_path / "root")
    path = tmp_path / "root/imdb-test.arrow"
    good = path.read_bytes()
    refused = 0
    for number, position in enumerate(range(8, len(good), 97)):
        bad = bytearray(good)
        bad[position] ^= 0x80
        path.write_bytes(bad)
        try:
            prepare("text", root=tmp_path / "root", cache=tmp_path / f"cache{number}")
        except DataError as error:
            refused += "imdb-test.arrow" in str(error)
    assert refused > 5
