"""ListOps: the generator against a slow reference; the reader against real rows and invalid lines."""

import hashlib
import io
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxytune.datasets.errors import DataError
from proxytune.datasets.listops import ListOps, ListOpsMini, decode, encode, read_tsv
from proxytune.datasets.listops_generator import (
    CLOSE_ID,
    OPERATORS,
    TOKEN_IDS,
    TOKENS,
    Grammar,
    generate,
    generate_chunk,
)
from proxytune.datasets.locating import find_source
from proxytune.datasets.sources import Source

# Classes of the 100,000 rows of the official release, as published.
RELEASED_CLASSES = np.array([17042, 9047, 7591, 8507, 8988, 8435, 7743, 7285, 8628, 16734])


# --- the slow reference: the official generator, without vectorization ------------------------------------


def grow(rng: random.Random, grammar: Grammar, depth: int = 1):
    r = rng.random() if depth < grammar.max_depth else 1.0
    if r > grammar.operator_probability:
        return rng.randint(0, 9)
    arguments = [grow(rng, grammar, depth + 1) for _ in range(rng.randint(2, grammar.max_arguments))]
    return (rng.choice(OPERATORS), arguments)


def length(tree) -> int:
    return 1 if isinstance(tree, int) else 2 + sum(map(length, tree[1]))


def value(tree) -> int:
    if isinstance(tree, int):
        return tree
    values = [value(argument) for argument in tree[1]]
    return {
        "[MIN": min(values),
        "[MAX": max(values),
        "[MED": int(np.median(values)),
        "[SM": sum(values) % 10,
    }[tree[0]]


def official_text(tree) -> str:
    if isinstance(tree, int):
        return str(tree)
    operator, arguments = tree
    return (
        "( " * (len(arguments) + 1)
        + operator
        + "".join(f" {official_text(argument)} )" for argument in arguments)
        + " ] )"
    )


def parse(tokens: list[str]):
    """The tree of an expression without parentheses."""
    stack: list[list] = [[]]
    for token in tokens:
        if token == "]":
            operator, *arguments = stack.pop()
            stack[-1].append((operator, arguments))
        elif token in OPERATORS:
            stack.append([token])
        else:
            stack[-1].append(int(token))
    assert len(stack) == 1
    (tree,) = stack[0]
    return tree


def expressions(rows):
    return [(decode(tokens), label) for (tokens,), label in rows]


# --- the generator ---------------------------------------------------------------------------------------


def test_generated_labels_are_the_values_of_well_formed_trees():
    grammar = Grammar()
    rows = generate_chunk(0, seed=0, grammar=grammar)
    assert len(rows) > 1000
    for text, label in expressions(rows)[:200]:
        tree = parse(text.split())
        assert value(tree) == label
        assert grammar.min_length < length(tree) < grammar.max_length


def test_generator_matches_the_reference_distribution():
    """Chi-square test of classes, lengths, depths and root nodes against the reference, with a short grammar."""
    grammar = Grammar(max_depth=5, max_arguments=4, min_length=5, max_length=60)
    rng = random.Random(1)
    reference = [tree for tree in (grow(rng, grammar) for _ in range(30_000)) if 5 < length(tree) < 60]
    generated = [parse(text.split()) for text, _ in expressions(generate_chunk(0, seed=3, grammar=grammar))]
    acceptance = np.array([len(reference) / 30_000, len(generated) / 16_384])
    assert abs(acceptance[0] - acceptance[1]) < 5 * np.sqrt(acceptance.mean() / 16_384)

    def depth(tree) -> int:
        return 1 if isinstance(tree, int) else 1 + max(map(depth, tree[1]))

    features = {
        "class": (value, range(10)),
        "length": (lambda tree: length(tree) // 6, range(10)),
        "depth": (depth, range(2, 6)),
        "root arguments": (lambda tree: len(tree[1]), range(2, 5)),
        "root operator": (lambda tree: OPERATORS.index(tree[0]), range(4)),
    }
    for name, (feature, bins) in features.items():
        expected, observed = (
            np.array([counted[bin_] for bin_ in bins], float)
            for counted in (Counter(map(feature, reference)), Counter(map(feature, generated)))
        )
        large = expected >= 10
        expected, observed = expected[large], observed[large]
        # The two-sample statistic has len - 1 degrees of freedom; the limit is its mean plus 4 standard deviations.
        scale = np.sqrt(expected.sum() / observed.sum())
        statistic = ((observed * scale - expected / scale) ** 2 / (observed + expected)).sum()
        freedom = len(expected) - 1
        assert statistic < freedom + 4 * np.sqrt(2 * freedom), (name, observed, expected)


def test_official_grammar_matches_the_release_statistics():
    """Class counts against the published counts of the release, and length statistics of the official grammar."""
    rows = list(generate(12_000, seed=0, grammar=Grammar(), mapper=map))
    labels = np.concatenate([block.labels for block in rows])
    lengths = np.concatenate([block.lengths[0] for block in rows])
    expected = RELEASED_CLASSES / RELEASED_CLASSES.sum() * len(labels)
    statistic = ((np.bincount(labels, minlength=10) - expected) ** 2 / expected).sum()
    assert statistic < 27.9  # 9 degrees of freedom, p = 0.001
    assert lengths.min() >= 501
    assert lengths.max() <= 1999
    assert abs(np.median(lengths) - 964) < 25
    assert abs(lengths.mean() - 1043) < 20
    assert abs(np.percentile(lengths, 90) - 1645) < 30


def test_generated_rows_are_distinct():
    grammar = Grammar(max_depth=2, max_arguments=2, min_length=3, max_length=5)  # 400 expressions exist
    texts = [
        text for rows in generate(350, seed=0, grammar=grammar, mapper=map) for text, _ in expressions(rows)
    ]
    assert len(texts) == len(set(texts)) == 350


def test_seed_and_chunk_give_same_rows_in_every_process():
    """The digest was recorded in another process. If it changes, so do the generated data of all studies."""
    rows, other = (generate_chunk(chunk, seed=7, grammar=Grammar()) for chunk in (5, 6))
    digest = hashlib.sha256(rows.values[0].tobytes() + rows.labels.tobytes()).hexdigest()
    assert digest == "bcb87539e85b409f18be38ab09acb83e191fdc5f3deeea25fffbb5b6ba8cf458"
    assert not np.array_equal(rows.values[0][:1000], other.values[0][:1000])


def test_fewer_train_examples_are_a_prefix_with_same_validation():
    def splits(train_examples):
        task = ListOpsMini(train_examples=train_examples)
        found: dict[str, list] = {}
        for split, rows in task.read(Source("generated"), map):
            found.setdefault(split, []).extend(expressions(rows))
        return found

    short, long = splits(100), splits(500)
    assert {split: len(rows) for split, rows in short.items()} == {
        "validation": 2000,
        "test": 2000,
        "train": 100,
    }
    assert short["validation"] == long["validation"]
    assert short["train"] == long["train"][:100]
    assert len({text for rows in long.values() for text, _ in rows}) == 4500


# --- the reader ------------------------------------------------------------------------------------------

digits_and_trees = st.recursive(
    st.integers(0, 9),
    lambda inner: st.tuples(st.sampled_from(OPERATORS), st.lists(inner, min_size=1, max_size=4)),
    max_leaves=20,
).filter(lambda tree: not isinstance(tree, int))


@given(digits_and_trees)
def test_encode_parses_official_text(tree):
    text = official_text(tree)
    ids = encode(text.encode())
    assert len(text.split()) == 3 * len(ids) - 2
    assert parse(decode(ids).split()) == tree
    assert encode(decode(ids).replace("]", "X").encode()).tolist() == ids.tolist()


@given(st.binary(max_size=60))
def test_encode_raises_or_keeps_every_token(source):
    """Either every token is known and decodes to itself, or DataError is raised."""
    names = {"X": "]", "[SUM": "[SM"}
    expected = [names.get(token, token) for token in source.decode("latin-1").split() if token not in "()"]
    try:
        ids = encode(source)
    except DataError:
        return
    assert decode(ids).split() == expected


def tsv(*lines: str, end: str = "\r\n") -> io.BytesIO:
    return io.BytesIO("".join(line + end for line in lines).encode())


ROW = "( ( ( [MAX 2 ) 9 ) ] )"


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize(
    "lines",
    [
        ("Source\tTarget", ROW + "\t9"),
        ("Target\tSource", "9\t" + ROW),
        ("9\t" + ROW,),
        (f"{ROW},9",),
        ('"Source","Target"', f'"{ROW}","9"'),
        (",Target,SOURCE", f"0,9.0,{ROW}"),  # an index column
    ],
)
def test_every_column_order_and_line_ending_is_read(lines, end):
    (rows,) = read_tsv(tsv(*lines, end=end), "f.tsv")
    assert expressions(rows) == [("[MAX 2 9 ]", 9)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (ROW + "\t9\t1", "3 columns"),
        ("( ( ( [MAX 2 ) 9 ) ] )", "1 columns, a ListOps row has Source and Target; it is truncated"),
        (ROW + "\tnan", "label nan is not a whole number"),
        (ROW + "\t-3", "label -3 is negative"),
        (ROW + "\t0.5", "label 0.5 is not a whole number"),
        (ROW + "\t10", "label 10 is not a digit"),
        ("( ( [FIRST 2 ) ] )\t2", "no token '[FIRST'"),
        ("( ( [MAX 12 ) ] )\t2", "no token '12'"),
        ("( ( [MAX2 ) ] )\t2", "no token '[MAX2'"),
        ("( )\t2", "empty"),
        ("( ( ( [MIN 1 ) 2 ) ] )\t1", "the same expression as basic_val.tsv, line 2"),
    ],
)
def test_invalid_line_is_rejected_with_its_number(line, message):
    with pytest.raises(DataError, match="line 3") as error:
        list(read_tsv(tsv("Source\tTarget", "( ( ( [MIN 1 ) 2 ) ] )\t1", line), "basic_val.tsv"))
    assert message in str(error.value)
    assert "basic_val.tsv" in str(error.value)
    assert "\n" not in str(error.value)


def test_file_without_rows_is_rejected():
    with pytest.raises(DataError, match="no rows"):
        list(read_tsv(tsv("Source\tTarget"), "f.tsv"))


def test_vocabulary_is_sorted_and_excludes_padding():
    assert list(TOKENS) == sorted(TOKENS)
    assert sorted(TOKEN_IDS.values()) == list(range(1, 16))
    assert TOKEN_IDS["]"] == CLOSE_ID
    assert ListOps().info().vocab_size == 16


@pytest.mark.realdata
def test_rows_of_the_real_release_are_read(real_file):
    """Two rows of the real release: each target is the value of the expression, and T tokens are 3T - 2 raw tokens."""
    for name in ("basic_train.row1.tsv", "basic_test.one_row.tsv"):
        content = real_file(f"listops_official_rows/{name}").read_bytes()
        ((text, label),) = [row for rows in read_tsv(io.BytesIO(content), name) for row in expressions(rows)]
        tokens = text.split()
        assert value(parse(tokens)) == label
        assert len(content.split(b"\t")[1].split()[1:]) == 3 * len(tokens) - 2
        assert 500 < len(tokens) < 2000


@pytest.mark.realdata
def test_release_archive_is_read(real_file):
    source = find_source(ListOps(), real_file("lra_release.tar.gz"))
    counts = {}
    for split, rows in ListOps().read(source, map):
        counts[split] = counts.get(split, 0) + len(rows)
        for text, label in expressions(rows)[:20]:
            assert value(parse(text.split())) == label
    assert counts == {"train": 300, "validation": 50, "test": 50}
