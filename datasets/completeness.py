"""Comparison of the rows that were read with the original data: counts, classes, and known content."""

from hashlib import blake2b

import numpy as np

from proxytune.datasets.sources import Source
from proxytune.datasets.task import SPLITS, Rows

_MODULUS = 1 << 128
# The conventions that compare the rows with the original data.
COMPARISONS = ("rows", "classes", "known", "partial", "lossy", "skipped")
# By task: name and digests (see RowCounts) of data with known content.
KNOWN = {
    "text": (
        "the original IMDB",
        {"train": "09e5b991569415afa4380c717140e995", "test": "973b11167337a1aaa40dc9c8e380199a"},
    ),
}


class RowCounts:
    """Number of rows, class counts and an order-independent digest of each split.

    A row's digest is the blake2b (16 bytes) of its label and of each document's ids. A split's digest is their sum modulo
    2**128, so that it does not depend on the order of rows and on how a copy divides them into files.
    """

    def __init__(self, task: str) -> None:
        self._known = KNOWN.get(task)
        self.classes: dict[str, np.ndarray] = {}
        self.digests: dict[str, int] = {}

    def add(self, split: str, rows: Rows) -> None:
        """Count the rows, before they are cut to the maximum length."""
        if not len(rows):
            return
        counts = np.bincount(np.maximum(rows.labels, 0))
        before = self.classes.get(split, np.zeros(0, np.int64))
        both = np.zeros(max(len(counts), len(before)), np.int64)
        both[: len(before)] += before
        both[: len(counts)] += counts
        self.classes[split] = both
        if self._known is None:
            return
        total = self.digests.get(split, 0)
        for documents, label in rows:
            digest = blake2b(str(label).encode(), digest_size=16)
            for document in documents:
                digest.update(b"|" + document.astype("<u2").tobytes())
            total += int.from_bytes(digest.digest(), "big")
        self.digests[split] = total % _MODULUS

    def findings(self, source: Source, num_classes: int) -> dict[str, str]:
        """The results of the comparison, to be stored with the prepared data.

        Raises DataError, unless partial data are allowed, if a split has only one class.
        """
        for split in SPLITS:
            if np.count_nonzero(self.classes[split]) == 1:
                source.lacks(f"{source.described(split)}: the {split} split has one class only")
        found = {}
        rows = self._rows(source)
        if rows:
            found["rows"] = rows
        classes = self._classes(source, num_classes)
        if classes:
            found["classes"] = classes
        if self._known is not None:
            name, digests = self._known
            if all(self._is_known(split, digest) for split, digest in digests.items()):
                found["known"] = f"{name} (every row's fingerprint is known)"
        return found

    def _of_source(self, source: Source) -> dict[str, np.ndarray]:
        """Class counts by the source's splits. A validation split drawn from train is counted in train."""
        counts = source.counts or {split: int(counted.sum()) for split, counted in self.classes.items()}
        found = {split: self.classes[split] for split in SPLITS}
        if "all" in counts:
            return {"all": _sum(list(found.values()))}
        if "validation" not in counts:
            drawn = found.pop("validation")
            if found["train"].sum() != counts["train"]:
                found["train"] = _sum([found["train"], drawn])
        return found

    def _rows(self, source: Source) -> str:
        assert source.format is not None
        official, own = source.format.rows, self._of_source(source)
        differing = [
            f"{counted.sum():,} of {official[split]:,}{'' if split == 'all' else ' ' + split} rows"
            for split, counted in own.items()
            if split in official and counted.sum() != official[split]
        ]
        if differing:
            return ", ".join(differing)
        return "as many as the original has" if official else ""

    def _classes(self, source: Source, num_classes: int) -> str:
        assert source.format is not None
        own = self._of_source(source)
        own["all"] = _sum(list(own.values()))
        differing = [
            f"{split} has {'/'.join(map(str, own[split]))} rows by class, the original {'/'.join(map(str, official))}"
            for split, official in source.format.classes.items()
            if own[split].sum() == sum(official) and list(own[split]) != list(official)
        ]
        differing += [
            f"{split} has {np.count_nonzero(self.classes[split])} of {num_classes} classes"
            for split in SPLITS
            if np.count_nonzero(self.classes[split]) < num_classes
        ]
        return "; ".join(differing)

    def _is_known(self, split: str, digest: str) -> bool:
        own = self.digests.get(split, 0)
        with_drawn = (own + self.digests.get("validation", 0)) % _MODULUS
        return digest in (f"{own:032x}", f"{with_drawn:032x}")


def _sum(counts: list[np.ndarray]) -> np.ndarray:
    total = np.zeros(max(map(len, counts)), np.int64)
    for one in counts:
        total[: len(one)] += one
    return total
