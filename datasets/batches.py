"""Batches of a split: endless and shuffled (uniformly or length-bucketed) for training, in order for evaluation.

A batch is padded to its longest row (rounded up), not to the task's length. The order depends only on (seed, epoch), so
the position in it suffices to resume at the exact next batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from proxytune.datasets.arrow_store import Split
from proxytune.datasets.errors import DataError
from proxytune.datasets.task import PADDING_ID

Order = Literal["uniform", "bucketed"]

# Rows are sorted by length within pools of this many batches: large enough that a batch holds almost no
# padding, small enough that an epoch mixes lengths.
POOL_BATCHES = 32
# Padded lengths are multiples of this to limit the number of distinct shapes.
PAD_MULTIPLE = 32


@dataclass(frozen=True)
class Batch:
    """token_ids and mask (batch, length) or (batch, 2, length), int64 and bool, True = valid; labels (batch,)."""

    token_ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on the device."""
        return Batch(self.token_ids.to(device), self.mask.to(device), self.labels.to(device))


def collate(split: Split, rows: Sequence[int] | NDArray[np.integer], *, full_padding: bool = False) -> Batch:
    """The rows as one batch, padded to its longest row, or with full_padding to the task's length."""
    examples = [split[int(row)] for row in rows]
    longest = max(len(document) for documents, _ in examples for document in documents)
    length = split.info.max_length if full_padding else _padded(longest, split.info.max_length)
    ids = np.full((len(examples), split.info.num_documents, length), PADDING_ID, np.int64)
    for row, (documents, _) in enumerate(examples):
        for index, document in enumerate(documents):
            ids[row, index, : len(document)] = document
    token_ids = torch.from_numpy(ids if split.info.num_documents > 1 else ids[:, 0])
    return Batch(token_ids, token_ids != PADDING_ID, torch.tensor([label for _, label in examples]))


def _padded(longest: int, max_length: int) -> int:
    return min(max_length, -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE)


class TrainBatches:
    """Endless batches. Every epoch has a new seeded order; its last, incomplete batch is dropped.

    order: how an epoch's rows are assigned to batches.
        uniform   consecutive rows of a random permutation, as in the LRA protocol of Nyströmformer
        bucketed  the permutation is split into pools of POOL_BATCHES batches, each pool is sorted by length, and the
                  batches are shuffled: little padding, but the rows of a batch have similar lengths

    load_state_dict(state_dict()) resumes at the exact next batch. It raises DataError if the state belongs to another
    seed, batch size, order or data.

    Raises:
        DataError: batch_size is below 1 or above the number of rows, or order is unknown.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        order: Order = "bucketed",
        full_padding: bool = False,
    ) -> None:
        if order not in get_args(Order):
            raise DataError(f"order is {order!r}, it must be one of {', '.join(get_args(Order))}")
        if not 1 <= batch_size <= len(split):
            raise DataError(
                f"batch_size is {batch_size}, it must be 1 to {len(split)}, the rows of {split.path}"
            )
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.order = order
        self.full_padding = full_padding
        self._epoch = 0
        self._position = 0
        self._order = self._epoch_order()

    def _epoch_order(self) -> NDArray[np.int64]:
        """(batches, batch_size) row numbers of the current epoch."""
        random = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self._epoch,)))
        num_batches = len(self.split) // self.batch_size
        order = random.permutation(len(self.split))[: num_batches * self.batch_size]
        if self.order == "uniform":
            return order.reshape(num_batches, self.batch_size)
        lengths = self.split.lengths
        pool = POOL_BATCHES * self.batch_size
        pools = [order[start : start + pool] for start in range(0, len(order), pool)]
        order = np.concatenate([rows[np.argsort(lengths[rows], kind="stable")] for rows in pools])
        return random.permutation(order.reshape(num_batches, self.batch_size))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._position == len(self._order):
            self._epoch += 1
            self._position = 0
            self._order = self._epoch_order()
        rows = self._order[self._position]
        self._position += 1
        return collate(self.split, rows, full_padding=self.full_padding)

    def state_dict(self) -> dict[str, Any]:
        """The position in the order, as integers and strings."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "order": self.order,
            "content_sha256": self.split.record.content_sha256,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position of a `state_dict`."""
        mine = self.state_dict()
        for key in ("seed", "batch_size", "order", "content_sha256"):
            if state[key] != mine[key]:
                raise DataError(f"batches of {key} {state[key]} cannot resume with {key} {mine[key]}")
        self._epoch = state["epoch"]
        self._position = state["position"]
        self._order = self._epoch_order()


def evaluation_batches(split: Split, *, batch_size: int, full_padding: bool = False) -> Iterator[Batch]:
    """Every row once, sorted by length to reduce padding; the last batch may be smaller."""
    order = np.argsort(split.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield collate(split, order[start : start + batch_size], full_padding=full_padding)
