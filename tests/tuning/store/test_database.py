"""Opening a database: its modes, its tables, its errors."""

import threading
from pathlib import Path

import pytest

from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.store.database import open_storage


@pytest.fixture(autouse=True)
def _database() -> None:
    """The layout of a database is tested here."""


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an SQLAlchemy URL"):
        open_storage("nonsense", create=True)
    with pytest.raises(InputError, match="no study there"):
        open_storage(f"sqlite:///{tmp_path / 'none.db'}", create=False)
    (tmp_path / "broken.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match="not a database"):
        open_storage(f"sqlite:///{tmp_path / 'broken.db'}", create=True)
    with pytest.raises(StorageError) as caught:
        open_storage("postgresql+psycopg://me:secret@127.0.0.1:1/x", create=True)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match="file is not a database"):
        open_storage(f"sqlite:///{tmp_path / 'study.db'}", create=False)


def test_the_database_is_private_and_its_tables_are_made_once(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def open_it() -> None:
        try:
            storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}", create=True)
            storage.get_all_studies()
            storage.engine.dispose()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o600"}
