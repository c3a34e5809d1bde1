"""Real data from $LRA_ROOT or a folder beside the repository, and writers of packed formats.

Tests that need real data are skipped without them.
"""

import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data_root() -> Path:
    root = Path(os.environ.get("LRA_ROOT", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data at {root}; set LRA_ROOT")
    return root


@pytest.fixture
def real_file(data_root: Path):
    """A function that returns the file at a path below the data root, or skips the test if it does not exist."""

    def find(name: str) -> Path:
        path = data_root / name
        if not path.exists():
            pytest.skip(f"no {path}; set LRA_ROOT")
        return path

    return find


SPLITS = {"train": "train", "validation": "dev", "test": "test"}


class Packing:
    """Writes {split: [(documents of ids, label)]} in the packed formats."""

    @staticmethod
    def pickles(root: Path, name: str, splits: dict) -> None:
        root.mkdir(parents=True, exist_ok=True)
        for split, examples in splits.items():
            rows = [
                {f"input_ids_{i}": np.array(ids, np.int32) for i, ids in enumerate(documents)}
                | {"label": label}
                for documents, label in examples
            ]
            (root / f"{name}.{SPLITS[split]}.pickle").write_bytes(pickle.dumps(rows))

    @staticmethod
    def mega(root: Path, splits: dict) -> None:
        for kind in ("input", "label"):
            (root / kind).mkdir(parents=True)
        for split, examples in splits.items():
            name = "valid" if split == "validation" else split
            lines = [" ".join(map(str, documents[0])) for documents, _ in examples]
            (root / f"input/{name}.src").write_text("\n".join(lines) + "\n")
            (root / f"label/{name}.label").write_text("".join(f"{label}\n" for _, label in examples))

    @staticmethod
    def npz(root: Path, splits: dict, prefix: str = "") -> None:
        root.mkdir(parents=True, exist_ok=True)
        for split, examples in splits.items():
            width = max(len(ids) for documents, _ in examples for ids in documents)
            columns = [
                np.array([[*documents[i], *[0] * (width - len(documents[i]))] for documents, _ in examples])
                for i in range(len(examples[0][0]))
            ]
            names = ["inputs"] if len(columns) == 1 else ["inputs1", "inputs2"]
            arrays = dict(zip(names, columns, strict=True), labels=[label for _, label in examples])
            np.savez_compressed(root / f"{prefix}{'val' if split == 'validation' else split}.npz", **arrays)

    @staticmethod
    def tables(root: Path, tables: dict, layout: str) -> None:
        """Write {split: pyarrow table} as Hugging Face does: `parquet`, `saved` (save_to_disk) or `cached` (load_dataset)."""
        root.mkdir(parents=True, exist_ok=True)
        for split, table in tables.items():
            if layout == "parquet":
                half = len(table) // 2
                pq.write_table(table.slice(0, half), root / f"{split}-00000-of-00002.parquet")
                pq.write_table(table.slice(half), root / f"{split}-00001-of-00002.parquet")
                continue
            path = root / f"data-{split}.arrow"
            if layout == "saved":
                (root / split).mkdir()
                (root / split / "cache-0123.arrow").write_bytes(b"the cache of a Dataset.map")
                path = root / split / "data-00000-of-00001.arrow"
            with pa.ipc.new_stream(str(path), table.schema) as writer:
                writer.write_table(table)


@pytest.fixture
def packing():
    return Packing
