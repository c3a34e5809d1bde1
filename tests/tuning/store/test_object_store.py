"""Checkpoints and exports in an S3-compatible store."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.export.destination import destination
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store import folder as folder_module
from proxytune.tuning.store.checkpoints import Checkpoints, CorruptCheckpoint
from proxytune.tuning.store.folder import Folder, try_folder
from proxytune.tuning.trial.trial_run import TrialRun
from tests.commandline import proxytune
from tests.tuning.conftest import checkpoints_in
from tests.tuning.store.s3_server import S3Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    started = S3Server(tmp_path_factory.mktemp("s3"))
    started.make_bucket("bucket")
    folder_module._filesystem.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in started.environment.items():
            patch.setenv(name, value)
        yield started
    folder_module._filesystem.cache_clear()
    started.close()


@pytest.fixture
def folder(server: Any, request: pytest.FixtureRequest) -> Folder:
    return Folder("s3://bucket/studies") / str(abs(hash(request.node.name)))


def state(value: float) -> dict[str, object]:
    return {"weights": torch.full((4, 3), value), "step": 3}


def test_two_newest_checkpoints_are_kept_and_load_unchanged(folder: Folder) -> None:
    for step in (1, 2, 30, 4):
        checkpoints_in(folder).save(step, state(step))
    assert [path.name for path in checkpoints_in(folder).paths()] == ["step-0000000030", "step-0000000004"]
    assert len(folder.names()) == 4
    newest, rejected = checkpoints_in(folder).newest()
    assert newest is not None
    assert torch.equal(newest["weights"], torch.full((4, 3), 30.0))
    assert rejected == []


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [_flip, lambda content: content[:-7], lambda content: b"", None])
@pytest.mark.parametrize("file", ["state", "manifest"])
def test_damaged_newest_checkpoint_is_reported_and_the_previous_one_loaded(
    folder: Folder, damage, file: str
) -> None:
    checkpoints_in(folder).save(1, state(1.0))
    newest = checkpoints_in(folder).save(2, state(2.0))
    (name,) = [name for name in newest.names() if name.startswith(file)]
    if damage is None:
        (newest / name).delete()
    else:
        (newest / name).write_bytes(damage((newest / name).read_bytes()))
    if not (damage is None and file == "manifest"):  # a folder without a manifest is not a checkpoint
        with pytest.raises(CorruptCheckpoint, match="step-0000000002"):
            checkpoints_in(folder).load(newest)
    loaded, _ = checkpoints_in(folder).newest()
    assert loaded is not None
    assert loaded["weights"][0, 0] == 1.0


def test_state_without_a_manifest_is_ignored_and_removed_by_the_next_save(
    folder: Folder,
) -> None:
    checkpoints_in(folder).save(1, state(1.0))
    (folder / "step-0000000002" / "state-partial.pt").write_bytes(b"written by a worker that died")
    assert [path.name for path in checkpoints_in(folder).paths()] == ["step-0000000001"]
    checkpoints_in(folder).save(3, state(3.0))
    assert not [name for name in folder.names() if "partial" in name]


def test_late_write_of_an_abandoned_worker_does_not_damage_a_checkpoint(folder: Folder) -> None:
    newest = checkpoints_in(folder).save(2, state(2.0))
    (newest / "state-late.pt").write_bytes(b"late")  # without a manifest: the worker died before it
    assert checkpoints_in(folder).load(newest)["weights"][0, 0] == 2.0


def test_trial_resumed_from_the_store_reports_the_same_metrics(
    make_spec, folder: Folder, tmp_path: Path
) -> None:
    spec = make_spec().trial({"model.dropout": 0.2})
    local = TrialRun(spec, checkpoints_in(tmp_path))
    expected = [local.advance() for _ in range(3)]
    TrialRun(spec, checkpoints_in(folder)).advance()
    resumed = TrialRun(  # from the JSON that a worker receives
        TrialSpec.model_validate_json(spec.model_dump_json()),
        Checkpoints.from_json(checkpoints_in(folder).to_json()),
    )
    assert resumed.step == 10
    updates = [resumed.advance() for _ in range(3)]
    assert [update.step for update in updates] == [10, 20, 30]
    for update, uninterrupted in zip(updates, expected, strict=True):
        assert update.metrics is not None
        assert uninterrupted.metrics is not None
        assert update.metrics["val_loss"] == uninterrupted.metrics["val_loss"]


def test_missing_bucket_raises_and_a_usable_folder_stays_empty(server: Any) -> None:
    with pytest.raises(StorageError, match="s3://no-such-bucket/x cannot be used"):
        try_folder(Folder("s3://no-such-bucket/x"))
    try_folder(Folder("s3://bucket/x"))
    assert Folder("s3://bucket/x").names() == []


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("storage=s3://bucket/studies", ["storage", "checkpoints: s3://bucket/studies", "database"]),
        ("checkpoints=/mnt/studies", ["checkpoints", "s3://bucket/prefix"]),
        ("checkpoints=s3://key:secret@bucket/x", ["checkpoints", "AWS_SECRET_ACCESS_KEY"]),
        ("checkpoints=s3://bucket/x?endpoint_override=evil", ["checkpoints", "environment"]),
        ("checkpoints=s3://bucket/../other", ["checkpoints"]),
    ],
)
def test_invalid_checkpoint_location_is_rejected(make_spec, assignment: str, expected: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        make_spec(assignment)
    for part in expected:
        assert part in str(caught.value)


def test_export_is_uploaded_with_sha256sums_last_and_never_overwrites(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded: list[str] = []
    write_bytes = Folder.write_bytes

    def write(target: Folder, content: bytes) -> None:
        uploaded.append(target.name)
        write_bytes(target, content)

    monkeypatch.setattr(Folder, "write_bytes", write)
    with destination(str(folder / "winner")) as local:
        (local / "point").mkdir(parents=True)
        for name in ("SHA256SUMS", "model.json", "point/SHA256SUMS", "point/weights.safetensors"):
            (local / name).write_text(name)
        assert folder.names() == []
    assert folder.names() == [
        f"winner/{name}"
        for name in ("SHA256SUMS", "model.json", "point/SHA256SUMS", "point/weights.safetensors")
    ]
    assert not local.exists()
    assert uploaded[-1] == "SHA256SUMS"
    with pytest.raises(InputError, match="winner exists"), destination(str(folder / "winner")):
        raise AssertionError("the destination was accepted")
    with pytest.raises(InputError, match="s3://a b"), destination("s3://a b"):
        raise AssertionError("the destination was accepted")


def test_failed_export_uploads_nothing(folder: Folder) -> None:
    def fail(local: Path) -> None:
        local.mkdir()
        (local / "model.json").write_text("{}")
        raise KeyError("the export failed")

    with pytest.raises(KeyError), destination(str(folder / "failed")) as local:
        fail(local)
    assert folder.names() == []


STUDY = """
name: small
task: {name: listops-mini, train_examples: 256}
model: {num_layers: 1, embedding_dim: 16, feedforward_dim: 16, num_proxies: 4}
training: {steps: 40, warmup_steps: 4, batch_size: 8, learning_rate: 1e-3, eval_every: 20}
search:
  space: {model.dropout: {low: 0.0, high: 0.3}}
  stopping: {name: none}
  trials: 2
checkpoints: s3://bucket/checkpoints
"""


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_study_with_checkpoints_in_s3_runs_exports_and_verifies(server: Any, tmp_path: Path) -> None:
    run = functools.partial(proxytune, cwd=tmp_path, timeout=1200, OMP_NUM_THREADS="1")
    (tmp_path / "small.yaml").write_text(STUDY)
    missing = run("run", "small.yaml", "--set", "checkpoints=s3://no-such-bucket/x")
    assert missing.returncode == 5
    assert "s3://no-such-bucket/x cannot be used" in missing.stderr
    assert not (tmp_path / "studies").exists()
    done = run("run", "small.yaml")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "studies" / "small" / "trials").exists()
    trials = Folder("s3://bucket/checkpoints/small/trials")
    assert {name.split("/")[0] for name in trials.names()} == {"0", "1"}
    exported = run("export", "small", "--no-register", "--out", "s3://bucket/winner")
    assert exported.returncode == 0, exported.stderr
    assert "-> s3://bucket/winner" in exported.stdout
    for name in Folder("s3://bucket/winner").names():
        (tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fetched" / name).write_bytes((Folder("s3://bucket/winner") / name).read_bytes())
    verified = run("verify", "fetched")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    written = "".join(
        path.read_text(errors="replace") for path in (tmp_path / "studies").rglob("*") if path.is_file()
    )
    assert "canary" not in written + done.stdout + done.stderr
