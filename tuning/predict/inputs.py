"""Converts examples to and from lines of text, the input of `predict`. The format of a line depends on the task:

text           the text
retrieval      the two texts, separated by a tab
listops        an expression such as [MAX 2 9 [MIN 4 7 ] 0 ]
recall         queries and pairs, such as 3? 3=5 7=2 3?
pictures       the grey levels 0 to 255, row by row, separated by blanks
ready-made ids (if the model was trained on ids) the ids, separated by blanks; two documents are separated by a tab
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets import DataError, listops, text
from proxytune.datasets.listops_values import evaluate
from proxytune.datasets.pictures import shifted
from proxytune.datasets.prepare import make_task
from proxytune.datasets.recall import Recall
from proxytune.datasets.task import PADDING_ID
from proxytune.models.config import ModelConfig
from proxytune.tuning.spec.task import Task as TaskSpec

Documents = tuple[NDArray[np.integer], ...]
_PICTURES = ("image", "pathfinder", "pathfinder64", "pathx")


@dataclass(frozen=True)
class InputFormat:
    """The conversion between lines and the token ids of an exported model."""

    task: TaskSpec
    config: ModelConfig
    conventions: Mapping[str, str]

    @property
    def _ready_made(self) -> bool:
        return self.conventions.get("tokens", "").startswith("ids as packed")

    @property
    def _literal(self) -> bool:
        """Whether the documents are Python bytes literals, quotes and backslashes included (retrieval, official)."""
        return self.conventions.get("documents", "").startswith("bytes literal")

    def parse(self, line: bytes) -> Documents:
        """The documents of a line without its line end, truncated to the task's length as in training.

        Raises:
            DataError: the line is empty or malformed; the message states the expected format.
        """
        parts = line.split(b"\t", 1) if self.config.num_documents == 2 else [line]
        if len(parts) != self.config.num_documents:
            raise DataError("two documents separated by a tab are expected")
        limit = int(make_task(self.task.name, **self.task.options).max_length)
        documents = tuple(self._encode(part)[:limit] for part in parts)
        for document in documents:
            if not len(document):
                raise DataError("empty")
            if not np.any(document != PADDING_ID):
                raise DataError("only padding")
        return documents

    def show(self, documents: Documents) -> str:
        """A line that `parse` converts to these documents; line ends and tabs within a text become blanks."""
        return "\t".join(self._decode(document) for document in documents)

    def _encode(self, part: bytes) -> NDArray[np.integer]:
        if self._ready_made:
            return self._numbers(part, self.config.vocab_size - 1)
        if self.task.name in _PICTURES:
            pixels = self._numbers(part, 255)
            if len(pixels) != self.config.max_length:
                raise DataError(f"{len(pixels)} pixels, a picture has {self.config.max_length}")
            return shifted(pixels, black_is_padding=self._black_is_padding)
        if self.task.name.startswith("listops"):
            return _expression(part)
        if self.task.name == "recall":
            return Recall(**self.task.options).encode(part)
        return text.encode(repr(part).encode() if self._literal else part)

    @property
    def _black_is_padding(self) -> bool:
        return bool(self.task.options.get("black_is_padding", True))

    def _numbers(self, part: bytes, highest: int) -> NDArray[np.integer]:
        try:
            numbers = np.array(part.split(), np.int64)
        except (ValueError, OverflowError):
            raise DataError(f"integers from 0 to {highest} separated by blanks are expected") from None
        if numbers.min(initial=0) < 0 or numbers.max(initial=0) > highest:
            raise DataError(
                f"integers from 0 to {highest} are expected, not {numbers.min()} to {numbers.max()}"
            )
        return numbers

    def _decode(self, ids: NDArray[np.integer]) -> str:
        if self._ready_made or self.task.name in _PICTURES:
            lift = 0 if self._ready_made or self._black_is_padding else 1
            return " ".join(map(str, (ids.astype(np.int64) - lift).tolist()))
        if self.task.name.startswith("listops"):
            return listops.decode(ids)
        if self.task.name == "recall":
            return Recall(**self.task.options).decode(ids)
        shown = text.decode(ids)
        if self._literal:  # a truncated literal has no closing quote
            shown = shown.removeprefix("b").strip("'\"")
        return " ".join(shown.split())


def _expression(part: bytes) -> NDArray[np.integer]:
    """The token ids of one complete ListOps expression."""
    ids = listops.encode(part)
    if not evaluate(ids, np.array([len(ids)])).well_formed[0]:
        raise DataError(
            "a complete ListOps expression is expected: operators with arguments, and every bracket closed"
        )
    return ids


def padded(rows: Sequence[Documents]) -> NDArray[np.int64]:
    """Token ids of the rows as one array, (b, n) or (b, 2, n), padded to the longest document."""
    longest = max(len(document) for documents in rows for document in documents)
    ids = np.full((len(rows), len(rows[0]), longest), PADDING_ID, np.int64)
    for row, documents in enumerate(rows):
        for position, document in enumerate(documents):
            ids[row, position, : len(document)] = document
    return ids if len(rows[0]) > 1 else ids[:, 0]
