"""The best trial, the Pareto front and the export archive over real HTTP, and hostile archives."""

import io
import random
import subprocess
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch

from proxytune.models import load_exported
from proxytune.models.exported import file_sha256
from proxytune.tuning.errors import InputError, ProxytuneError, StorageError
from proxytune.tuning.service import limits
from proxytune.tuning.service.archive import PIECE, tar, unpack
from proxytune.tuning.service.client import Client
from tests.tuning.service.conftest import Driver


def test_best_trial_within_limits(http: httpx.Client) -> None:
    best = http.get("/v1/studies/small/best").json()
    assert (best["best"]["trial"], best["best"]["values"]) == (1, {"val_accuracy": 0.7})
    assert "the best val_accuracy" in best["rule"]
    small = http.get("/v1/studies/small/best", params={"max_memory_mib": 4}).json()
    assert small["best"]["trial"] == 0
    assert "train_memory_mib_per_sequence <= 4" in small["rule"]
    none = http.get("/v1/studies/small/best", params={"max_memory_mib": 1})
    assert none.status_code == 422
    assert "trial 0 is nearest" in none.json()["detail"]
    for wrong in ("nan", "inf", "-1", "0", "x"):
        assert http.get("/v1/studies/small/best", params={"min_throughput": wrong}).status_code == 422


def test_front_of_one_objective_is_against_memory(http: httpx.Client) -> None:
    front = http.get("/v1/studies/small/pareto").json()
    assert front["objectives"] == {"val_accuracy": "maximize", "train_memory_mib_per_sequence": "minimize"}
    assert [point["trial"] for point in front["points"]] == [0, 1]


def test_impossible_export_or_confirmation_is_rejected(http: httpx.Client, tmp_path, monkeypatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    for params, status, detail in (
        ({"trial": 2}, 422, "trial 2 is diverged"),
        ({"trial": 9}, 422, "no trial 9"),
        ({"trial": 1, "max_memory_mib": 3}, 422, "trial and limits exclude each other"),
        ({}, 503, "trial 1 cannot be exported: no checkpoint"),
    ):
        response = http.get("/v1/studies/small/export", params=params)
        assert (response.status_code, response.headers["content-type"]) == (
            status,
            "application/problem+json",
        )
        assert detail in response.json()["detail"]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert http.get("/v1/studies/small/confirmation").status_code == 404
    assert http.post("/v1/studies/small/confirm").status_code == 409  # no cluster
    assert http.post("/v1/studies/small/confirm", json={"seeds": 1}).status_code == 422


def test_aborted_download_leaves_no_files(http: httpx.Client, tmp_path, monkeypatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))

    class ExportResult:
        class record:  # noqa: N801
            trial = 1

    def large(_study, folder: Path, _request) -> list[type[ExportResult]]:
        folder.mkdir()
        with (folder / "weights.safetensors").open("wb") as file:
            file.truncate(200 << 20)
        return [ExportResult]

    monkeypatch.setattr("proxytune.tuning.export.export.export_study", large)
    with http.stream("GET", "/v1/studies/small/export") as response:
        assert response.headers["content-disposition"] == 'attachment; filename="small-trial-1.tar"'
        next(response.iter_raw())
        assert len(list((tmp_path / "scratch").iterdir())) == 1
    deadline = time.monotonic() + 300
    while list((tmp_path / "scratch").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_concurrent_exports_and_streams_are_limited(serve, finished, monkeypatch) -> None:
    monkeypatch.setattr(limits, "EXPORTS", 1)
    monkeypatch.setattr(limits, "STREAMS", 1)
    started, finish = threading.Event(), threading.Event()

    def slow(_study, folder: Path, _request) -> None:
        started.set()
        assert finish.wait(300)
        raise InputError("no trial")

    monkeypatch.setattr("proxytune.tuning.export.export.export_study", slow)
    end = (finished.folder / "outbox" / "events.jsonl").stat().st_size
    with httpx.Client(base_url=serve(), timeout=300) as http, ThreadPoolExecutor() as pool:
        first = pool.submit(http.get, "/v1/studies/small/export")
        assert started.wait(300)
        second = http.get("/v1/studies/small/export")
        assert (second.status_code, second.headers["retry-after"]) == (429, "30")
        assert second.json()["detail"] == "1 exports are already in progress"
        finish.set()
        assert first.result().status_code == 422
        assert http.get("/v1/studies/small/export").status_code == 422  # the slot is free
        with http.stream("GET", "/v1/studies/small/events", headers={"Last-Event-ID": str(end)}):
            assert http.get("/v1/studies/small/events").status_code == 429
        deadline = time.monotonic() + 300
        while http.get("/v1/studies/small/events", params={"follow": False}).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_fetched_winner_can_predict(serve, make_spec, tmp_path: Path, without_programs) -> None:
    short = ("training.steps=6", "training.warmup_steps=2", "training.eval_every=6")
    driver = Driver(make_spec("search.stopping.name=none", "search.trials=1", *short))
    assert driver.train() == 0
    driver.end()
    winner = tmp_path / "fetched" / "winner"
    with Client(serve()) as client:
        assert client.export("small", winner) == winner
        assert client.best("small")["best"]["trial"] == 0
        with pytest.raises(InputError, match="exists; name a folder that does not"):
            client.export("small", winner)
    model = load_exported(winner)
    with torch.inference_mode():
        logits = model(torch.ones(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.bool))
    assert logits.shape == (1, 10)
    assert [path.name for path in winner.parent.iterdir()] == ["winner"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Like an export folder, with the folder of another trial of the Pareto front, and larger than one piece."""
    folder = tmp_path / "winner"
    (folder / "trial-7").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(random.Random(0).randbytes(PIECE + 1000))
    (folder / "trial-7" / "model.json").write_text('{"format": 1}')
    (folder / "empty").touch()
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    (folder / "SHA256SUMS").write_text(
        "".join(f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
    )
    return folder


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "archive.tar").write_bytes(b"".join(tar(folder, "winner")))
    return tmp_path / "archive.tar"


def test_archive_round_trips(archive: Path, folder: Path, tmp_path: Path) -> None:
    def contents(top: Path) -> dict[Path, bytes]:
        return {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}

    assert contents(unpack(archive, tmp_path / "again")) == contents(folder)
    with tarfile.open(archive) as standard:  # as a standard tar reads it
        assert {entry.name for entry in standard} == {
            f"winner/{name.as_posix()}" for name in contents(folder)
        }
        assert {(entry.uid, entry.uname, entry.mode) for entry in standard} == {(0, "", 0o644)}


def test_truncated_or_changed_archive_is_rejected(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    for number, damaged in enumerate(
        (whole[: len(whole) // 2], whole[:512], b"", whole.replace(b'"format"', b'"farmot"'), b"x" * 5000)
    ):
        archive.write_bytes(damaged)
        with pytest.raises(StorageError, match="the archive from the server is"):
            unpack(archive, tmp_path / f"folder{number}")


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
    return entry


@pytest.mark.parametrize(
    "entries",
    [
        [_member("../escaped")],
        [_member("winner/../../escaped")],
        [_member("/tmp/escaped-by-archive")],
        [_member("escaped")],
        [_member("winner/link", tarfile.SYMTYPE, "/etc"), _member("winner/link/escaped")],
        [_member("winner/link", tarfile.SYMTYPE, "..")],
        [_member("winner/hard", tarfile.LNKTYPE, "/etc/passwd")],
        [_member("winner/device", tarfile.CHRTYPE)],
        [_member("winner/fifo", tarfile.FIFOTYPE)],
        [_member("winner/one"), _member("winner/one")],
        [_member("winner/one"), _member("winner/one/two")],
    ],
    ids=lambda entries: entries[-1].name if isinstance(entries, list) else None,
)
def test_hostile_archive_writes_nothing_outside_its_folder(tmp_path: Path, entries) -> None:
    with tarfile.open(tmp_path / "archive.tar", "w") as archive:
        for entry in entries:
            archive.addfile(entry, io.BytesIO(b"evil"))
    (tmp_path / "in").mkdir()
    with pytest.raises(StorageError):
        unpack(tmp_path / "archive.tar", tmp_path / "in" / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive.tar", "in"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["folder"]
    assert not Path("/tmp/escaped-by-archive").exists()


def test_sparse_archive_is_rejected(tmp_path: Path) -> None:
    """A sparse archive of a few kilobytes can expand to more than the disk has."""
    sparse = tmp_path / "model.safetensors"
    with sparse.open("wb") as file:
        file.truncate(1 << 30)
    packed = tmp_path / "archive.tar"
    command = ["tar", "--sparse", "--format=gnu", "--transform=s,^,winner/,", "-cf", packed, sparse.name]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert packed.stat().st_size < 1 << 20
    with pytest.raises(
        StorageError,
        match=r"the archive has an entry 'winner/model\.safetensors', which does not belong to an export",
    ):
        unpack(packed, tmp_path / "folder")
    command[2] = "--format=pax"
    subprocess.run(command, cwd=tmp_path, check=True)
    with pytest.raises(StorageError, match="which does not belong to an export"):
        unpack(packed, tmp_path / "other")


def test_nul_in_a_name_is_rejected(archive: Path, tmp_path: Path) -> None:
    entry = _member("x")
    entry.pax_headers = {"path": "winner/a\0b"}
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as writer:
        writer.addfile(entry, io.BytesIO(b"evil"))
    with pytest.raises(StorageError, match="which does not belong to an export"):
        unpack(archive, tmp_path / "folder")
    with Client("http://127.0.0.1:9") as client:
        with pytest.raises(InputError, match="is not a path"):
            client.export("small", tmp_path / "a\0b")
        with pytest.raises(ProxytuneError):
            client.study("a\0b")
        with pytest.raises(InputError, match="is not a path"):
            client.submit("a\0b.yaml")
        with pytest.raises(ProxytuneError):
            next(client.events("a\0b"))
        with pytest.raises(ProxytuneError):
            client.export("a\0b", tmp_path / "c")
    with pytest.raises(InputError, match="is not a path"):
        Client(token_file=tmp_path / "a\0b")
