"""Archives: supported kinds are read; malicious and damaged archives raise DataError with the name."""

import bz2
import gzip
import io
import json
import lzma
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from proxytune.datasets import archives
from proxytune.datasets.archives import archive_index, is_archive, read_members
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


def tar_bytes(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    path.write_bytes(gzip.compress(tar_bytes(*members)))
    return path


def write_zip(path: Path, **contents: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in contents.items():
            zipped.writestr(name, content)
    return path


COMPRESSIONS = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".TGZ": gzip.compress,
    ".gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".Tar.XZ": lzma.compress,
    ".txz": lzma.compress,
    ".tar.zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compressed_tar_is_read_with_any_case_of_suffix(suffix, tmp_path):
    path = tmp_path / f"DATA{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](tar_bytes(regular("./d/b", b"2"), regular("d/a", b"1" * 5000))))
    assert is_archive(path)
    assert archive_index(path).names == {"d/a", "d/b"}
    assert [(name, stream.read()) for name, stream in read_members(path, frozenset({"d/a"}))] == [
        ("d/a", b"1" * 5000)
    ]


@pytest.mark.parametrize("name", ["data.zip", "DATA.ZIP"])
def test_zip_archive_is_read(name, tmp_path):
    path = write_zip(tmp_path / name, **{"d/a": b"1" * 5000, "d\\b": b"2", "__MACOSX/d/._a": b"3"})
    assert is_archive(path)
    assert archive_index(path).names == {"d/a", "d/b"}
    assert [(name, stream.read()) for name, stream in read_members(path, frozenset({"d/a", "d/b"}))] == [
        ("d/a", b"1" * 5000),
        ("d/b", b"2"),
    ]


MALICIOUS = {
    "dotdot": [regular("a/../../evil")],
    "absolute": [regular("/etc/evil")],
    "device": [special("null", tarfile.CHRTYPE)],
    "fifo": [special("pipe", tarfile.FIFOTYPE)],
    "bomb": [regular("zeros", bytes(30 << 20))],
    "duplicate": [regular("a", b"1"), regular("./a", b"2")],
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_archive_is_rejected(name, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_RATIO", 20)
    path = write(tmp_path / "malicious.tar.gz", *MALICIOUS[name])
    with pytest.raises(DataError, match="refused") as error:
        archive_index(path)
    assert str(path) in str(error.value)
    with pytest.raises(DataError, match="refused"):
        list(read_members(path, frozenset({"not there"})))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a\\..\\..\\evil"])
def test_zip_with_unsafe_paths_is_rejected(name, tmp_path):
    with pytest.raises(DataError, match="refused"):
        archive_index(write_zip(tmp_path / "malicious.zip", **{name: b"x"}))


def test_encrypted_zip_is_rejected(tmp_path):
    path = write_zip(tmp_path / "secret.zip", a=b"x")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="member 'a' is encrypted"):
        archive_index(path)


def test_zip_bomb_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_RATIO", 20)
    with pytest.raises(DataError, match="refused"):
        archive_index(write_zip(tmp_path / "bomb.zip", zeros=bytes(30 << 20)))


def test_links_are_not_followed_and_unused_links_are_ignored(tmp_path):
    members = [
        regular("a", b"1"),
        special("b", tarfile.LNKTYPE, "a"),
        special("c", tarfile.SYMTYPE, "/etc/passwd"),
        regular("c/d", b"2"),
    ]
    path = write(tmp_path / "links.tar.gz", *members)
    index = archive_index(path)
    assert (index.names, index.links) == ({"a", "c/d"}, {"b", "c"})
    with pytest.raises(DataError, match="member c is missing"):
        list(read_members(path, frozenset({"c"})))


def test_macos_metadata_files_are_ignored(tmp_path):
    path = write(tmp_path / "mac.tar.gz", regular("d/._a"), regular("d/a"), regular("__MACOSX/d/b"))
    assert archive_index(path).names == {"d/a"}


def test_archive_with_too_many_members_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    path = write(tmp_path / "many.tar.gz", *(regular(str(index)) for index in range(4)))
    with pytest.raises(DataError, match="refused"):
        archive_index(path)


# --- memory ----------------------------------------------------------------------------------------------

# Prints, for each archive, the error and the growth of this process's peak memory since the start, in MiB.
MEASURE = """
import json, re, sys
from pathlib import Path
from proxytune.datasets.archives import archive_index
from proxytune.datasets.errors import DataError
def peak_kib():
    return int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak_kib()
results = []
for archive in sys.argv[1:]:
    message = ""
    try:
        archive_index(Path(archive))
    except DataError as error:
        message = str(error)
    results.append((message, (peak_kib() - before) // 1024))
print(json.dumps(results))
"""


def header(kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo("././@LongLink")
    member.type = kind
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def gzipped_zeros(path: Path, start: bytes, mebibytes: int) -> None:
    path.write_bytes(gzip.compress(start) + gzip.compress(bytes(1 << 20)) * mebibytes)


def sparse_header() -> bytes:
    """The header of a member whose map of holes claims 10^10 entries."""
    member = tarfile.TarInfo("holes")
    member.size = 200 << 20
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "holes"}
    return member.tobuf(tarfile.PAX_FORMAT) + b"9999999999\n"


def write_sparse_map(path: Path) -> None:
    path.write_bytes(gzip.compress(sparse_header()) + gzip.compress(b"0\n" * (1 << 19)) * 200)


BOMBS = {
    "sparse map": write_sparse_map,
    "old sparse map": lambda path: gzipped_zeros(path, header(tarfile.GNUTYPE_SPARSE, 1), 20),
    "GNU name header": lambda path: gzipped_zeros(path, header(tarfile.GNUTYPE_LONGNAME, 100 << 20), 100),
    "GNU link header": lambda path: gzipped_zeros(path, header(tarfile.GNUTYPE_LONGLINK, 100 << 20), 100),
    "pax header": lambda path: gzipped_zeros(path, header(tarfile.XHDTYPE, 100 << 20), 100),
    "pax global header": lambda path: gzipped_zeros(path, header(tarfile.XGLTYPE, 100 << 20), 100),
    "trailing bytes": lambda path: gzipped_zeros(path, tar_bytes(regular("a")), 100),
    "many headers": lambda path: path.write_bytes(
        gzip.compress(
            b"".join(header(tarfile.XHDTYPE, 512) + b"9 a=bbbb\n" + bytes(503) for _ in range(5000))
        )
    ),
}


@pytest.fixture(scope="module")
def bomb_results(tmp_path_factory):
    """{name: (error, MiB)} of all BOMBS, which one process reads; a peak includes the archives before it."""
    folder = tmp_path_factory.mktemp("bombs")
    paths = [folder / f"{name.replace(' ', '-')}.tar.gz" for name in BOMBS]
    for path, write_bomb in zip(paths, BOMBS.values(), strict=True):
        write_bomb(path)
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    return dict(zip(BOMBS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", BOMBS)
def test_headers_and_trailing_bytes_are_read_with_bounded_memory(name, bomb_results, record_property):
    message, mebibytes = bomb_results[name]
    record_property("peak_mib", f"{name}: {mebibytes} MiB")
    assert f"{name.replace(' ', '-')}.tar.gz: " in message
    assert "refused" in message
    assert mebibytes < 64


# --- order, damage and the cached index ------------------------------------------------------------------


def test_members_are_read_in_archive_order_in_one_pass(tmp_path):
    path = write(
        tmp_path / "good.tar.gz", regular("./d/b", b"2"), special("d", tarfile.DIRTYPE), regular("d/a", b"1")
    )
    assert archive_index(path).names == {"d/a", "d/b"}
    assert [(name, stream.read()) for name, stream in read_members(path, frozenset({"d/a", "d/b"}))] == [
        ("d/b", b"2"),
        ("d/a", b"1"),
    ]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_archive_raises_and_is_named(share, tmp_path):
    path = write(
        tmp_path / "a.tar.gz", *(regular(str(n), random.Random(n).randbytes(5000)) for n in range(9))
    )
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match="truncated") as error:
        archive_index(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_flipped_byte_is_detected_by_checksum(tmp_path):
    path = write(tmp_path / "a.tar.gz", regular("a", random.Random(0).randbytes(50_000)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged") as error:
        archive_index(path)
    assert str(path) in str(error.value)


def test_flipped_byte_in_zip_is_detected_on_read(tmp_path):
    path = write_zip(tmp_path / "a.zip", a=random.Random(0).randbytes(50_000))
    content = bytearray(path.read_bytes())
    content[25_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged") as error:
        [stream.read() for _, stream in read_members(path, frozenset({"a"}))]
    assert str(path) in str(error.value)


def test_cached_index_is_reused_until_the_archive_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar.gz", regular("old"), special("l", tarfile.SYMTYPE, "old"))
    records = tmp_path / "cache/files"
    first = archive_index(path, records)
    archives._index.cache_clear()  # as in another process
    with monkeypatch.context() as patched:
        patched.setattr(archives, "_read_index", lambda archive: pytest.fail("read again"))
        assert archive_index(path, records) == first
    write(path, regular("new1"), regular("new2"))
    assert archive_index(path, records).names == {"new1", "new2"}


def test_unwritable_or_damaged_index_cache_is_ignored(tmp_path):
    path = write(tmp_path / "a.tar.gz", regular("a"))
    (tmp_path / "file").write_text("not a folder")
    assert archive_index(path, tmp_path / "file").names == {"a"}
    archive_index(path, tmp_path / "records")
    (record,) = (tmp_path / "records").iterdir()
    record.write_bytes(b"\xff garbage")
    archives._index.cache_clear()
    assert archive_index(path, tmp_path / "records").names == {"a"}
