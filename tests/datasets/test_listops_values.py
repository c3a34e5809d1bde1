"""Every ListOps row is evaluated on reading: truncated rows and shifted labels are rejected with their line."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxytune.datasets.errors import DataError
from proxytune.datasets.listops import encode, read_tsv
from proxytune.datasets.listops_generator import OPERATORS, TOKENS, Grammar, generate_chunk
from proxytune.datasets.listops_values import evaluate


def reference_value(tokens: list[str]) -> int | None:
    """The value of one expression, evaluated token by token; None if its brackets do not match."""
    functions = {"[MAX": max, "[MIN": min, "[MED": lambda v: int(np.median(v)), "[SM": lambda v: sum(v) % 10}
    stack: list[list] = []
    for number, token in enumerate(tokens):
        if token in OPERATORS:
            stack.append([token])
            continue
        if not stack:
            return None
        if token != "]":
            stack[-1].append(int(token))
            continue
        operator, *arguments = stack.pop()
        if not arguments:
            return None
        value = functions[operator](arguments)
        if not stack:
            return value if number == len(tokens) - 1 else None
        stack[-1].append(value)
    return None


trees = st.recursive(
    st.integers(0, 9).map(str),
    lambda inner: st.tuples(st.sampled_from(OPERATORS), st.lists(inner, min_size=1, max_size=5)).map(
        lambda tree: " ".join([tree[0], *tree[1], "]"])
    ),
    max_leaves=20,
).filter(lambda text: text[0] == "[")
rows = st.lists(st.one_of(trees, st.lists(st.sampled_from(TOKENS), min_size=1).map(" ".join)), min_size=1)


@given(rows)
def test_evaluate_agrees_with_the_reference_evaluator(texts):
    """Well-formed and random token sequences in one array; a malformed row does not affect the others."""
    ids = [encode(text.encode()) for text in texts]
    values = evaluate(np.concatenate(ids), np.array([len(row) for row in ids]))
    for text, value, well_formed in zip(texts, values.value, values.well_formed, strict=True):
        expected = reference_value(text.split())
        assert well_formed == (expected is not None)
        if well_formed:
            assert value == expected


def test_evaluate_agrees_with_generated_labels():
    drawn = generate_chunk(0, seed=1, grammar=Grammar())
    values = evaluate(drawn.values[0], drawn.lengths[0])
    assert values.well_formed.all()
    assert np.array_equal(values.value, drawn.labels)


EXPRESSIONS = [f"( ( ( [SM {a} ) {b} ) ] )" for a in range(10) for b in range(10)]
TARGETS = [(a + b) % 10 for a in range(10) for b in range(10)]


def tsv(targets: list[int], expressions: list[str] = EXPRESSIONS) -> io.BytesIO:
    lines = [f"{source}\t{target}\n" for source, target in zip(expressions, targets, strict=True)]
    return io.BytesIO("".join(["Source\tTarget\n", *lines]).encode())


def test_shifted_label_column_is_rejected_with_its_line():
    with pytest.raises(
        DataError, match=r"f\.tsv, line 2: the expression has the value 0, its target is 8 \(and 99 more"
    ):
        list(read_tsv(tsv([TARGETS[-1], *TARGETS[:-1]]), "f.tsv"))


@pytest.mark.parametrize("row", ["( ( ( [SM 3 ) 4", "( ( ( [SM 3 ) 4 ) ", "3 ) 4 ) ] )", "( [SM ] )", "7"])
def test_truncated_row_is_rejected_with_its_line(row):
    expressions = [*EXPRESSIONS]
    expressions[41] = row
    with pytest.raises(DataError, match=r"f\.tsv, line 43: the expression's brackets do not match"):
        list(read_tsv(tsv(TARGETS, expressions), "f.tsv"))


@pytest.mark.parametrize("header", ["Source\tTarget", "source\ttarget", "SOURCE\tTARGET", None])
@pytest.mark.parametrize("label_first", [False, True])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_header_column_order_bom_and_trailing_blank_lines_are_accepted(header, label_first, start):
    lines = [f"{source}\t{target}" for source, target in zip(EXPRESSIONS, TARGETS, strict=True)]
    lines = ([header] if header else []) + lines + ["", ""]
    if label_first:
        lines = ["\t".join(reversed(line.split("\t"))) for line in lines]
    content = start + "\r\n".join(lines).encode()
    (block,) = read_tsv(io.BytesIO(content), "f.tsv")
    assert block.labels.tolist() == TARGETS


def test_sum_is_read_as_sm():
    content = tsv(TARGETS).getvalue().replace(b"[SM", b"[SUM")
    (block,) = read_tsv(io.BytesIO(content), "f.tsv")
    assert block.labels.tolist() == TARGETS


def test_blank_line_between_rows_is_rejected():
    lines = tsv(TARGETS).getvalue().split(b"\n")
    lines.insert(5, b"")
    with pytest.raises(DataError, match="line 6: 0 columns"):
        list(read_tsv(io.BytesIO(b"\n".join(lines)), "f.tsv"))
