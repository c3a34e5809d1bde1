"""Checkpoints in a real S3-compatible store: complete or not there, verified, the two newest kept."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.export.destination import destination
from proxytune.tuning.store import folder as folder_module
from proxytune.tuning.store.checkpoints import CorruptCheckpoint
from proxytune.tuning.store.folder import Folder, try_folder
from proxytune.tuning.trial.trial_run import TrialRun
from tests.commandline import proxytune
from tests.tuning.conftest import checkpoints_in
from tests.tuning.store.s3 import S3Server


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


def test_the_two_newest_are_kept_and_come_back_as_they_were(folder: Folder) -> None:
    for step in (1, 2, 30, 4):
        checkpoints_in(folder).save(step, state(step))
    assert [path.name for path in checkpoints_in(folder).paths()] == ["step-0000000030", "step-0000000004"]
    assert len(folder.names()) == 4
    newest, refused = checkpoints_in(folder).newest()
    assert newest is not None
    assert torch.equal(newest["weights"], torch.full((4, 3), 30.0))
    assert refused == []


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [_flip, lambda content: content[:-7], lambda content: b"", None])
@pytest.mark.parametrize("file", ["state", "manifest"])
def test_a_damaged_newest_is_named_and_the_one_before_is_taken(folder: Folder, damage, file: str) -> None:
    checkpoints_in(folder).save(1, state(1.0))
    newest = checkpoints_in(folder).save(2, state(2.0))
    (name,) = [name for name in newest.names() if name.startswith(file)]
    if damage is None:
        (newest / name).delete()
    else:
        (newest / name).write_bytes(damage((newest / name).read_bytes()))
    if not (damage is None and file == "manifest"):  # then it was never there
        with pytest.raises(CorruptCheckpoint, match="step-0000000002"):
            checkpoints_in(folder).load(newest)
    loaded, _ = checkpoints_in(folder).newest()
    assert loaded is not None
    assert loaded["weights"][0, 0] == 1.0


def test_what_was_written_without_a_manifest_is_no_checkpoint_and_goes_with_the_next(
    folder: Folder,
) -> None:
    checkpoints_in(folder).save(1, state(1.0))
    (folder / "step-0000000002" / "state-half.pt").write_bytes(b"a worker died here")
    assert [path.name for path in checkpoints_in(folder).paths()] == ["step-0000000001"]
    checkpoints_in(folder).save(3, state(3.0))
    assert not [name for name in folder.names() if "half" in name]


def test_a_worker_that_was_given_up_cannot_spoil_the_one_that_goes_on(folder: Folder) -> None:
    newest = checkpoints_in(folder).save(2, state(2.0))
    (newest / "state-late.pt").write_bytes(b"late")  # the zombie writes its state, then is gone
    assert checkpoints_in(folder).load(newest)["weights"][0, 0] == 2.0


def test_a_trial_goes_on_from_the_store_in_another_process_to_the_same_end(
    make_spec, folder: Folder, tmp_path: Path
) -> None:
    spec = make_spec().trial({"model.dropout": 0.2})
    local = TrialRun(spec, checkpoints_in(tmp_path))
    updates = [local.advance() for _ in range(3)]
    run = TrialRun(spec, checkpoints_in(folder))
    run.advance()
    script = (
        "import sys; from proxytune.tuning.trial.trial_run import TrialRun;"
        "from proxytune.tuning.store.checkpoints import Checkpoints;"
        "from proxytune.tuning.spec.trial_spec import TrialSpec;"
        "run = TrialRun(TrialSpec.model_validate_json(sys.argv[1]), Checkpoints.from_json(sys.argv[2]));"
        "assert run.step == 10; print(*(run.advance().to_json() for _ in range(3)), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, spec.model_dump_json(), checkpoints_in(folder).to_json()],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [update["step"] for update in told] == [10, 20, 30]
    for mine, theirs in zip(updates, told, strict=True):
        assert mine.metrics is not None
        assert theirs["metrics"]["val_loss"] == mine.metrics["val_loss"]


def test_a_store_that_cannot_be_used_is_told_before_anything_starts(server: Any) -> None:
    with pytest.raises(StorageError, match="s3://no-such-bucket/x cannot be used"):
        try_folder(Folder("s3://no-such-bucket/x"))
    try_folder(Folder("s3://bucket/x"))
    assert Folder("s3://bucket/x").names() == []


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("storage=s3://bucket/studies", ["storage", "checkpoints: s3://bucket/studies", "database"]),
        ("checkpoints=/mnt/studies", ["checkpoints", "s3://bucket/prefix"]),
        ("checkpoints=s3://key:secret@bucket/x", ["checkpoints", "AWS_SECRET_ACCESS_KEY"]),
        ("checkpoints=s3://bucket/x?endpoint_override=evil", ["checkpoints", "environment"]),
        ("checkpoints=s3://bucket/../other", ["checkpoints"]),
    ],
)
def test_a_place_that_is_no_store_is_refused(make_spec, assignment: str, words: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        make_spec(assignment)
    for word in words:
        assert word in str(refused.value)


def test_an_export_is_uploaded_with_its_sums_last_and_never_over_another(folder: Folder) -> None:
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
    with pytest.raises(InputError, match="winner exists"), destination(str(folder / "winner")):
        raise AssertionError("the export began")
    with pytest.raises(InputError, match="s3://a b"), destination("s3://a b"):
        raise AssertionError("the export began")


def test_an_export_that_fails_uploads_nothing(folder: Folder) -> None:
    def fail(local: Path) -> None:
        local.mkdir()
        (local / "model.json").write_text("{}")
        raise KeyError("the export failed")

    with pytest.raises(KeyError), destination(str(folder / "half")) as local:
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
checkpoints: s3://bucket/whole
"""


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_whole_study_keeps_its_checkpoints_in_the_store_and_its_winner_goes_there(
    server: Any, tmp_path: Path
) -> None:
    tool = functools.partial(proxytune, cwd=tmp_path, timeout=1200, OMP_NUM_THREADS="1")
    (tmp_path / "small.yaml").write_text(STUDY)
    nowhere = tool("run", "small.yaml", "--set", "checkpoints=s3://no-such-bucket/x")
    assert nowhere.returncode == 5
    assert "s3://no-such-bucket/x cannot be used" in nowhere.stderr
    assert not (tmp_path / "studies").exists()
    done = tool("run", "small.yaml")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "studies" / "small" / "trials").exists()
    place = Folder("s3://bucket/whole/small/trials")
    assert {name.split("/")[0] for name in place.names()} == {"0", "1"}
    exported = tool("export", "small", "--no-register", "--out", "s3://bucket/winner")
    assert exported.returncode == 0, exported.stderr
    assert "-> s3://bucket/winner" in exported.stdout
    for name in Folder("s3://bucket/winner").names():
        (tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fetched" / name).write_bytes((Folder("s3://bucket/winner") / name).read_bytes())
    verified = tool("verify", "fetched")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    everything = "".join(
        path.read_text(errors="replace") for path in (tmp_path / "studies").rglob("*") if path.is_file()
    )
    assert "canary" not in everything + done.stdout + done.stderr
