"""sqlite on a network file system: without a write-ahead log, which works on one machine only."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from proxytune.tuning.store import database, mounts
from proxytune.tuning.store.database import open_storage

MOUNTS = """\
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 21 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/me/my\\040disk rw,relatime - xfs /dev/vdb rw
32 21 0:42 / /scratch rw,relatime - ext4 /dev/vdc rw
33 21 0:43 / /scratch rw,relatime - lustre mds@tcp:/scratch rw
"""


@pytest.fixture(autouse=True)
def _database() -> None:
    """Override the shared fixture: these tests create the tables themselves."""


@pytest.mark.parametrize(
    ("path", "shared"),
    [
        ("/var/study.db", False),
        ("/home/me/studies/study.db", True),
        ("/home/me/my disk/study.db", False),
        ("/homes/study.db", False),
        ("/scratch/study.db", True),  # the second mount covers the first
    ],
)
def test_innermost_mount_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, shared: bool
) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")
    assert mounts.on_network(Path(path)) is shared


def test_missing_mountinfo_means_a_local_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "missing")
    assert not mounts.on_network(tmp_path)


@pytest.mark.parametrize(("shared", "mode"), [(False, "wal"), (True, "delete")])
def test_journal_mode_is_delete_on_network_mounts_and_wal_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool, mode: str
) -> None:
    monkeypatch.setattr(database, "on_network", lambda _path: shared)
    for create in (True, False):  # the driver, then a reader
        storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}", create=create)
        with storage.engine.connect() as connection:
            assert connection.execute(sa.text("PRAGMA journal_mode")).scalar_one() == mode
        storage.engine.dispose()
