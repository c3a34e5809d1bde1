"""Inspection of a prepared task: decoded examples, class counts, lengths, and plots as PNG files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.arrow_store import Split
from proxytune.datasets.errors import DataError
from proxytune.datasets.prepare import PreparedTask, make_task

LENGTHS_PNG, EXAMPLES_PNG = "lengths.png", "examples.png"


@dataclass(frozen=True)
class Inspection:
    """The content of `proxytune data inspect`.

    examples are (label, documents) of text tasks; pictures are in examples_png instead. lengths are minimum, median,
    mean, 90th percentile and maximum of the number of tokens in the train split.
    """

    fingerprint: str
    conventions: Mapping[str, str]
    rows: Mapping[str, int]
    class_counts: Mapping[str, list[int]]
    lengths: Mapping[str, float]
    examples: list[tuple[int, tuple[str, ...]]]
    lengths_png: Path
    examples_png: Path | None


def inspect(prepared: PreparedTask, folder: Path, *, num_examples: int = 6) -> Inspection:
    """Decode the first train examples, compute the counts, and write the PNG files into the folder (created if missing).

    The test split is not opened. Only its number of rows is reported.
    """
    if not 1 <= num_examples <= 100:
        raise DataError(f"num_examples is {num_examples}, it must be 1 to 100")
    task = make_task(prepared.info.name, **prepared.options)
    folder.mkdir(parents=True, exist_ok=True)
    texts: list[tuple[int, tuple[str, ...]]] = []
    pictures: list[tuple[int, NDArray[np.uint8]]] = []
    for row in range(min(num_examples, len(prepared.train))):
        documents, label = prepared.train[row]
        decoded = [task.decode(document) for document in documents]
        pictures += [(label, one) for one in decoded if isinstance(one, np.ndarray)]
        text = tuple(one for one in decoded if isinstance(one, str))
        if text:
            texts.append((label, text))
    if pictures:
        _draw_pictures(pictures, prepared.info.name, folder / EXAMPLES_PNG)
    splits = {"train": prepared.train, "validation": prepared.validation}
    _draw_lengths(splits, prepared.info.name, folder / LENGTHS_PNG)
    lengths = prepared.train.lengths
    return Inspection(
        fingerprint=prepared.fingerprint,
        conventions=prepared.info.conventions,
        rows={name: record.rows for name, record in prepared.records.items()},
        class_counts={
            name: np.bincount(split.labels, minlength=prepared.info.num_classes).tolist()
            for name, split in splits.items()
        },
        lengths={
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "mean": float(lengths.mean()),
            "p90": float(np.percentile(lengths, 90)),
            "max": int(lengths.max()),
        },
        examples=texts,
        lengths_png=folder / LENGTHS_PNG,
        examples_png=folder / EXAMPLES_PNG if pictures else None,
    )


def _draw_lengths(splits: Mapping[str, Split], name: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot()
    top = max(int(split.lengths.max()) for split in splits.values())
    bins = np.linspace(0, top + 1, min(top + 2, 60)).tolist()
    for split_name, split in splits.items():
        weights = np.full(len(split), 100 / len(split))
        axes.hist(
            split.lengths, bins, weights=weights, histtype="step", label=f"{split_name} ({len(split):,} rows)"
        )
    axes.set_xlabel("tokens of an example (the longer document's)")
    axes.set_ylabel("% of the split")
    axes.set_title(f"{name}: lengths")
    axes.legend()
    figure.savefig(path, dpi=120)


def _draw_pictures(pictures: list[tuple[int, NDArray[np.uint8]]], name: str, path: Path) -> None:
    from matplotlib.figure import Figure

    columns = min(len(pictures), 6)
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.8 * columns, 2.1 * rows + 0.4), layout="constrained")
    figure.suptitle(f"{name}: first train examples")
    for index, (label, picture) in enumerate(pictures):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(f"class {label}", fontsize=9)
        axes.set_axis_off()
    figure.savefig(path, dpi=120)
