"""Tar archives: real ones read, eight hostile ones refused with the member's name, damaged ones named."""

import io
import random
import tarfile
from pathlib import Path

import pytest

from proxytune.datasets import archives
from proxytune.datasets.archives import member_names, read_members
from proxytune.datasets.errors import DataError


def regular(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member, b""


def write(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return path


HOSTILE = {
    "dotdot": [regular("a/../../evil")],
    "absolute": [regular("/etc/evil")],
    "symlink then file": [special("a", tarfile.SYMTYPE, "/etc"), regular("a/evil")],
    "hardlink": [regular("a"), special("b", tarfile.LNKTYPE, "a")],
    "device": [special("null", tarfile.CHRTYPE)],
    "fifo": [special("pipe", tarfile.FIFOTYPE)],
    "bomb": [regular("zeros", bytes(300 << 20))],
    "duplicate": [regular("a", b"1"), regular("./a", b"2")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused(name, tmp_path):
    path = write(tmp_path / "hostile.tar.gz", *HOSTILE[name])
    with pytest.raises(DataError, match="refused") as error:
        member_names(path)
    assert str(path) in str(error.value)
    assert HOSTILE[name][-1][0].name in str(error.value) or HOSTILE[name][0][0].name in str(error.value)
    with pytest.raises(DataError, match="refused"):
        list(read_members(path, frozenset({"not there"})))
    assert list(tmp_path.iterdir()) == [path]


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    path = write(tmp_path / "many.tar.gz", *(regular(str(index)) for index in range(4)))
    with pytest.raises(DataError, match="refused"):
        member_names(path)


def test_members_come_in_one_pass_in_the_archives_order(tmp_path):
    path = write(
        tmp_path / "good.tar.gz", regular("./d/b", b"2"), special("d", tarfile.DIRTYPE), regular("d/a", b"1")
    )
    assert member_names(path) == {"d/a", "d/b"}
    assert [(name, stream.read()) for name, stream in read_members(path, frozenset({"d/a", "d/b"}))] == [
        ("d/b", b"2"),
        ("d/a", b"1"),
    ]


def test_a_missing_member_is_named(tmp_path):
    path = write(tmp_path / "good.tar.gz", regular("a"))
    with pytest.raises(DataError, match="member b is missing"):
        list(read_members(path, frozenset({"b"})))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_archive_is_named(share, tmp_path):
    path = write(
        tmp_path / "a.tar.gz", *(regular(str(n), random.Random(n).randbytes(5000)) for n in range(9))
    )
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match="truncated") as error:
        member_names(path)
    assert str(path) in str(error.value)


def test_a_flipped_byte_is_found_by_the_checksum(tmp_path):
    path = write(tmp_path / "a.tar.gz", regular("a", random.Random(0).randbytes(50_000)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged") as error:
        member_names(path)
    assert str(path) in str(error.value)


def test_a_changed_archive_is_listed_anew(tmp_path):
    path = write(tmp_path / "a.tar.gz", regular("old"))
    assert member_names(path) == {"old"}
    write(path, regular("new1"), regular("new2"))
    assert member_names(path) == {"new1", "new2"}
