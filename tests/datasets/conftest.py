"""Real data by $LRA_ROOT or beside the repository; tests that need them skip where they are absent."""

import os
from pathlib import Path

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
    """A function from a path below the data root to the file, which skips where it is absent."""

    def find(name: str) -> Path:
        path = data_root / name
        if not path.exists():
            pytest.skip(f"no {path}; set LRA_ROOT")
        return path

    return find
