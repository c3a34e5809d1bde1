"""Formats shared by several tasks: those of Hugging Face's libraries, and individually named files."""

from collections.abc import Sequence
from typing import Any

from proxytune.datasets.sources import Format

NAMED = "files by name"
PARQUET, SAVED, ARROW = "Hugging Face Parquet", "Hugging Face save_to_disk", "Hugging Face cache"
# Names of the validation split in copies.
VALIDATION = "{val,validation,valid,dev,eval}"
SPLIT_NAMES = {"train": "train", "validation": VALIDATION, "test": "test"}


def hugging_face_formats(
    names: Sequence[str], *, optional: Sequence[str] = (), **shared: Any
) -> tuple[Format, ...]:
    """Parquet (as on the hub, or in its cache), save_to_disk, and the Arrow cache of load_dataset.

    names are the data set's folder names; shared are fields common to all formats.
    """
    hubs = [f"{base}datasets--*{name}*/snapshots/*" for name in names for base in ("", "hub/")]
    folders = [
        folder
        for name in (*names, ".", *(f"data/{name}" for name in names), *hubs)
        for folder in (name, f"{name}/plain_text", f"{name}/data", f"{name}/default")
    ]
    caches = [".", "*/0.0.0/*", "parquet/*/0.0.0/*", "datasets/parquet/*/0.0.0/*"]
    for name in names:
        caches += [name, f"*{name}*/*/0.0.0/*", f"datasets/*{name}*/*/0.0.0/*"]
    return (
        Format(
            name=PARQUET,
            folders=folders,
            parts={part: f"{split}*.parquet" for part, split in SPLIT_NAMES.items()},
            optional=optional,
            **shared,
        ),
        Format(
            name=SAVED,
            folders=[folder for name in names for folder in (name, f"data/{name}", f"*/{name}")] + [".", "*"],
            parts={part: f"{split}/{{data-*,dataset}}.arrow" for part, split in SPLIT_NAMES.items()},
            optional=optional,
            **shared,
        ),
        Format(
            name=ARROW,
            folders=caches,
            parts={part: f"{{*-,}}{split}{{,-*-of-*}}.arrow" for part, split in SPLIT_NAMES.items()},
            optional=optional,
            **shared,
        ),
    )
