"""Retrieval: literal and decoded documents, ids with separate texts, streaming, invalid lines."""

import io
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxytune.datasets import DataError, prepare
from proxytune.datasets.retrieval import FORMATS, Retrieval, _pairs
from proxytune.datasets.sources import Source
from proxytune.datasets.text import decode

PAPERS = {
    "P05-1": b"Plain text.\nTwo lines, caf\xc3\xa9",
    "P05-2": b"It's quoted",
    "P05-3": b'it\'s "both" \\ quoted\t',
    "P05-4": b'only "double"',
}
PAIRS = [
    ("1.0", "P05-1", "P05-2"),
    ("0.0", "P05-3", "P05-4"),
    ("1", "P05-4", "P05-1"),
    ("0", "P05-2", "P05-3"),
]


def write_tsv(root, lines=None, name="train"):
    folder = root / "lra_release/lra_release/tsv_data"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "eval", "test"):
        rows = [
            f"{label}\t{first}\t{second}\t{PAPERS[first]!r}\t{PAPERS[second]!r}"
            for label, first, second in PAIRS
        ]
        if lines is not None and split == name:
            rows = lines
        (folder / f"new_aan_pairs.{split}.tsv").write_text("\n".join(rows) + "\n")


def documents(split):
    return [(*(decode(ids) for ids in split[row][0]), split[row][1]) for row in range(len(split))]


def test_documents_are_bytes_literals_by_default(tmp_path):
    write_tsv(tmp_path)
    prepared = prepare("retrieval", root=tmp_path, cache=tmp_path / "cache")
    assert prepared.info.num_documents == 2
    assert documents(prepared.train) == [
        (repr(PAPERS[first]), repr(PAPERS[second]), int(float(label))) for label, first, second in PAIRS
    ]
    assert prepared.info.conventions["documents"] == "bytes literal as it stands (official)"


def test_documents_can_be_decoded(tmp_path):
    write_tsv(tmp_path)
    prepared = prepare("retrieval", root=tmp_path, cache=tmp_path / "cache", documents="decoded")
    assert documents(prepared.train) == [
        (PAPERS[first].decode(), PAPERS[second].decode(), int(float(label))) for label, first, second in PAIRS
    ]


def test_paper_ids_are_joined_with_text_files(tmp_path):
    (tmp_path / "aan/papers_text").mkdir(parents=True)
    for paper, content in PAPERS.items():
        (tmp_path / f"aan/papers_text/{paper}.txt").write_bytes(content)
    for split in ("train", "eval", "test"):
        (tmp_path / f"aan/new_aan_pairs.{split}.only_ids.tsv").write_text(
            "".join(" ".join(pair) + "\r\n" for pair in PAIRS)
        )
    prepared = prepare("retrieval", root=tmp_path, cache=tmp_path / "cache")
    assert documents(prepared.validation)[1] == (PAPERS["P05-3"].decode(), PAPERS["P05-4"].decode(), 0)
    assert prepared.info.conventions["documents"] == "the files' own bytes"
    (tmp_path / "aan/papers_text/P05-4.txt").unlink()
    with pytest.raises(DataError, match=r"line 2: no text for paper 'P05-4'"):
        prepare("retrieval", root=tmp_path, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ("nan\ta\tb\tb'1'\tb'2'", {}, "label nan is not a whole number"),
        ("0.5\ta\tb\tb'1'\tb'2'", {}, "label 0.5 is not a whole number"),
        ("\ta\tb\tb'1'\tb'2'", {}, "label '' is not a number"),
        ("2\ta\tb\tb'1'\tb'2'", {}, "label 2 is neither 0 nor 1"),
        ("-1\ta\tb\tb'1'\tb'2'", {}, "label -1 is negative"),
        ("1.0\ta\tb\tb'1'", {}, "4 columns, an AAN row has 5"),
        ("1.0\ta\tb\tb'1'\tb'2'\t", {}, "6 columns"),
        ("1.0\ta\tb\tb'1'\t", {}, "an empty document"),
        ("1.0\ta\tb\tb'1'\ttext", {"documents": "decoded"}, "is not a bytes literal"),
        ("1.0\ta\tb\tb'1'\t__import__('os')", {"documents": "decoded"}, "is not a bytes literal"),
        ("1.0\ta\tb\tb'1'\tb'open", {}, "does not end as a bytes literal; it is truncated"),
        ("1.0\ta\tb\tb''\tb'2'", {"documents": "decoded"}, "an empty document"),
    ],
)
def test_invalid_line_is_rejected_with_its_number(line, options, message, tmp_path):
    good = "1.0\ta\tb\tb'1'\tb'2'"
    write_tsv(tmp_path, [good, line, good], name="eval")
    with pytest.raises(DataError, match=r"new_aan_pairs\.eval\.tsv, line 2") as error:
        prepare("retrieval", root=tmp_path, cache=tmp_path / "cache", **options)
    assert message in str(error.value)


@given(
    st.lists(st.tuples(st.binary(min_size=1), st.binary(min_size=1), st.booleans()), min_size=1, max_size=8)
)
def test_any_bytes_round_trip_as_literal_and_decoded(pairs):
    lines = b"".join(f"{float(label)}\tx\ty\t{one!r}\t{two!r}\r\n".encode() for one, two, label in pairs)
    for kind in ("literal", "decoded"):
        task = Retrieval(documents=kind)
        read = list(_pairs(task, Source("AAN TSV"), io.BytesIO(lines), "f.tsv"))
        for ((first, second), read_label), (one, two, label) in zip(read, pairs, strict=True):
            expected = (one, two) if kind == "decoded" else (repr(one).encode(), repr(two).encode())
            assert ((first - 1).astype("u1").tobytes(), (second - 1).astype("u1").tobytes()) == expected
            assert read_label == label


def test_documents_are_streamed(tmp_path):
    """A 60 MB file is read with a few MB of memory, in blocks of rows with truncated documents."""
    line = f"1.0\ta\tb\t{b'x' * 30_000!r}\t{b'y' * 30_000!r}\n"
    path = tmp_path / "new_aan_pairs.train.tsv"
    with open(path, "w") as stream:
        for _ in range(1000):
            stream.write(line)
    for name in ("eval", "test"):
        (tmp_path / f"new_aan_pairs.{name}.tsv").write_text(line)
    source = Source(
        "AAN TSV",
        tmp_path,
        {
            s: (f"new_aan_pairs.{n}.tsv",)
            for s, n in (("train", "train"), ("validation", "eval"), ("test", "test"))
        },
        format=FORMATS[0],
    )
    tracemalloc.start()
    total = sum(len(rows) for _, rows in Retrieval().read(source, map))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 1002
    assert peak < 16e6


@pytest.mark.realdata
def test_real_pairs_are_read(real_file, tmp_path):
    prepared = prepare("retrieval", root=real_file("lra_release.tar.gz"), cache=tmp_path)
    assert (len(prepared.train), len(prepared.validation), prepared.records["test"].rows) == (1600, 200, 200)
    for row in range(0, 1600, 100):
        for ids in prepared.train[row][0]:
            assert decode(ids)[:2] in ("b'", 'b"')
            assert len(ids) == 4000
            assert ids.max() <= 127  # literals are ASCII
    decoded = prepare("retrieval", root=real_file("lra_release.tar.gz"), cache=tmp_path, documents="decoded")
    assert not any(decode(decoded.train[row][0][0]).startswith("b'") for row in range(100))
