"""Associative recall as classification, after MQAR (Arora et al. 2023, arXiv 2312.04927).

A sequence is a shuffled mixture of pair tokens, each of which binds a key to a value, and query tokens, each of which
names a key. A key has one value throughout a sequence. All queried keys are bound to the same value: the label. The task
can be solved only by attending to the right tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.errors import DataError
from proxytune.datasets.parallel import Mapper
from proxytune.datasets.sources import Format, Source
from proxytune.datasets.task import PADDING_ID, Rows, TaskInfo, padded_length

NUM_VALUES = 8
SIZES = {"train": 20_000, "validation": 2_000, "test": 2_000}

_ROWS_PER_BLOCK = 1_000


@dataclass(frozen=True, kw_only=True)
class Recall:
    """`recall`: 20,000/2,000/2,000 generated rows of max_length tokens, half of them pairs; not an LRA task.

    Validation and test rows bind all num_keys keys. The numbers of keys per value differ by at most one, so that the value
    counts do not reveal the label. Train rows bind 1 to num_keys keys, log-uniformly: from rows with few keys the model
    learns the values, without which a short training does not learn to match keys. max_length >= 2 num_keys. At most
    num_queried keys are queried per row.

    Raises:
        DataError: the sequence is too short for its keys, or there are fewer keys than values.
    """

    max_length: int = 256
    num_keys: int = 32
    num_queried: int = 4
    train_examples: int | None = None
    seed: int = 0

    name: ClassVar[str] = "recall"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.num_keys < NUM_VALUES:
            raise DataError(f"num_keys is {self.num_keys}, it must be at least {NUM_VALUES}, one a value")
        if 1 + self.num_keys * (1 + NUM_VALUES) > 1 << 16:
            raise DataError(
                f"num_keys is {self.num_keys}, it must be at most {((1 << 16) - 1) // (1 + NUM_VALUES)}: ids have 16 bits"
            )
        if self.max_length < 2 * self.num_keys:
            raise DataError(
                f"max_length is {self.max_length}, it must be at least twice num_keys ({self.num_keys}): "
                "half of the tokens are pairs, one a key"
            )

    def info(self, form: str | None = None) -> TaskInfo:
        """Eight classes, one per value; one token per query and per pair."""
        return TaskInfo(
            name=self.name,
            vocab_size=1 + self.num_keys * (1 + NUM_VALUES),
            max_length=padded_length(self.max_length),
            num_classes=NUM_VALUES,
            conventions={
                "tokens": f"0 padding, {self.num_keys} queries, then pairs, {NUM_VALUES} a key",
                "length": f"{self.max_length} tokens, padded to {padded_length(self.max_length)}",
                "queried": f"at most {self.num_queried} keys a row, all bound to the label",
                "validation": f"generated; all {self.num_keys} keys bound, as in test; log-uniformly 1 to all in train",
                "score": "no LRA score",
            },
        )

    @property
    def formats(self) -> Sequence[Format]:
        """None: it is always generated."""
        return ()

    @property
    def generator(self) -> str | None:
        """Description of the seeded generator."""
        return f"associative recall, seed {self.seed}"

    @property
    def num_generated(self) -> int:
        """Rows of all splits."""
        return sum(self._sizes.values())

    @property
    def _sizes(self) -> dict[str, int]:
        num_train = SIZES["train"] if self.train_examples is None else self.train_examples
        return {**SIZES, "train": min(SIZES["train"], num_train)}

    def read(self, source: Source, mapper: Mapper) -> Iterator[tuple[str, Rows]]:
        """Generated rows; a block depends only on the seed, its split and its number."""
        for index, (split, num_rows) in enumerate(self._sizes.items()):
            for block, start in enumerate(range(0, num_rows, _ROWS_PER_BLOCK)):
                random = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(index, block)))
                num_bound = np.full(_ROWS_PER_BLOCK, self.num_keys)
                if split == "train":
                    exponents = random.random(_ROWS_PER_BLOCK) * math.log(self.num_keys + 1)
                    num_bound = np.minimum(np.exp(exponents).astype(np.int64), self.num_keys)
                yield split, self.draw(random, num_bound)[: num_rows - start]

    def draw(self, random: np.random.Generator, num_bound: NDArray[np.int64]) -> Rows:
        """Draw one row for each number of bound keys (1 to num_keys)."""
        num_rows, bound = len(num_bound), num_bound[:, None]
        # Row r binds keys[r, i] to values[r, i] for i < num_bound[r]; values repeat with period NUM_VALUES.
        keys = np.argsort(random.random((num_rows, self.num_keys)), axis=1)
        values = np.argsort(random.random((num_rows, NUM_VALUES)), axis=1)[
            :, np.arange(self.num_keys) % NUM_VALUES
        ]
        num_pairs = self.max_length // 2
        bindings = np.arange(num_pairs) % bound
        pairs = np.take_along_axis(keys, bindings, 1) * NUM_VALUES + np.take_along_axis(values, bindings, 1)

        first = random.integers(0, np.minimum(bound, NUM_VALUES))  # the label's first binding
        same_value = (bound - first - 1) // NUM_VALUES + 1  # bindings of the label's value
        queried = first + NUM_VALUES * random.integers(0, same_value, (num_rows, self.num_queried))
        chosen = random.integers(0, self.num_queried, (num_rows, self.max_length - num_pairs))
        queries = np.take_along_axis(keys, np.take_along_axis(queried, chosen, 1), 1)

        tokens = random.permuted(np.concatenate([1 + queries, 1 + self.num_keys + pairs], axis=1), axis=1)
        return Rows(
            (tokens.ravel().astype(np.uint16),),
            (np.full(num_rows, self.max_length, np.int64),),
            np.take_along_axis(values, first, 1)[:, 0],
        )

    def decode(self, ids: NDArray[np.integer]) -> str:
        """The tokens as text without padding: `7?` queries key 7, `7=3` binds it to value 3."""
        return " ".join(self._token(index - 1) for index in ids.tolist() if index != PADDING_ID)

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        """The token ids of a text in the notation of `decode`.

        Raises:
            DataError: a word is neither `KEY?` nor `KEY=VALUE`, or names a key or value that the task does not have.
        """
        ids = {self._token(index): 1 + index for index in range(self.info().vocab_size - 1)}
        words = text.decode(errors="replace").split()
        if unknown := [word for word in words if word not in ids]:
            raise DataError(
                f"{unknown[0]!r}: queries such as 7? and pairs such as 7=3 are expected, keys 0 to {self.num_keys - 1}, "
                f"values 0 to {NUM_VALUES - 1}"
            )
        return np.array([ids[word] for word in words], np.uint16)

    def _token(self, index: int) -> str:
        if index < self.num_keys:
            return f"{index}?"
        key, value = divmod(index - self.num_keys, NUM_VALUES)
        return f"{key}={value}"
