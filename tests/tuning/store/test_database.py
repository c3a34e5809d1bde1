"""Opening a database: file modes, tables, errors."""

import threading
from pathlib import Path

import pytest

from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.store.database import open_storage


@pytest.fixture(autouse=True)
def _database() -> None:
    """Override the shared fixture: these tests create the tables themselves."""


def test_database_that_cannot_be_opened_raises_and_hides_the_password(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an SQLAlchemy URL"):
        open_storage("nonsense", create=True)
    with pytest.raises(InputError, match="no study there"):
        open_storage(f"sqlite:///{tmp_path / 'missing.db'}", create=False)
    (tmp_path / "broken.db").write_bytes(b"not a database" * 100)
    for create in (True, False):
        with pytest.raises(StorageError, match="file is not a database"):
            open_storage(f"sqlite:///{tmp_path / 'broken.db'}", create=create)
    with pytest.raises(StorageError) as caught:
        open_storage("postgresql+psycopg://me:secret@127.0.0.1:1/x", create=True)
    assert "secret" not in str(caught.value)


def test_concurrent_first_opens_create_one_private_database(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def open_database() -> None:
        try:
            storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}", create=True)
            storage.get_all_studies()
            storage.engine.dispose()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_database) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o600"}
