"""Checkpoints: written atomically, verified when loaded; only the two newest are kept."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from proxytune.tuning.store.checkpoints import Checkpoints, CorruptCheckpoint, ForeignCheckpoint, Owner
from proxytune.tuning.store.folder import Folder
from tests.tuning.conftest import checkpoints_in


def state(value: float) -> dict[str, object]:
    return {"weights": torch.full((4, 3), value), "step": 3, "name": "a", "losses": [1.0, value]}


def test_state_round_trips(tmp_path: Path) -> None:
    loaded = checkpoints_in(tmp_path).load(checkpoints_in(tmp_path).save(3, state(0.5)))
    assert torch.equal(loaded["weights"], torch.full((4, 3), 0.5))
    assert {key: loaded[key] for key in ("step", "name", "losses")} == {
        "step": 3,
        "name": "a",
        "losses": [1.0, 0.5],
    }


def test_only_the_two_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 30, 4):
        checkpoints_in(tmp_path).save(step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000000004", "step-0000000030"]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("file", ["state-*.pt", "manifest.json"])
def test_damaged_newest_checkpoint_is_reported_and_the_previous_one_loaded(
    tmp_path: Path, damage, file: str
) -> None:
    checkpoints_in(tmp_path).save(1, state(1.0))
    newest = checkpoints_in(tmp_path).save(2, state(2.0))
    damage(next(Path(newest.url).glob(file)))
    with pytest.raises(CorruptCheckpoint, match="step-0000000002"):
        checkpoints_in(tmp_path).load(newest)
    loaded, rejected = checkpoints_in(tmp_path).newest()
    assert loaded is not None
    assert loaded["weights"][0, 0] == 1.0
    if damage is Path.unlink and file == "manifest.json":
        assert rejected == [], "a folder without a manifest is not a checkpoint"
    else:
        assert len(rejected) == 1
        assert "step-0000000002" in rejected[0]


def test_pickle_with_code_is_rejected_and_not_executed(tmp_path: Path) -> None:
    import pickle

    canary = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (canary,))

    folder = tmp_path / "step-0000000001"
    folder.mkdir()
    payload = pickle.dumps(Hostile(), protocol=2)
    (folder / "state.pt").write_bytes(payload)
    (folder / "manifest.json").write_text(
        json.dumps(
            {"step": 1, "sha256": hashlib.sha256(payload).hexdigest(), "file": "state.pt"}
            | {"study": "study", "trial": 0, "configuration": "c"}
        )
    )
    with pytest.raises(CorruptCheckpoint, match="Weights only load failed"):
        checkpoints_in(tmp_path).load(Folder(str(folder)))
    assert not canary.exists()


def test_failed_write_keeps_the_previous_checkpoint_and_no_partial_file(tmp_path: Path) -> None:
    checkpoints_in(tmp_path).save(1, state(1.0))
    with pytest.raises(Exception, match=r"pickle|lambda"):
        checkpoints_in(tmp_path).save(2, {"not storable": lambda: None})
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000001"]


OWNER = Owner(study="s", trial=2, configuration="c", data="d")


@pytest.mark.parametrize("other", [{"study": "t"}, {"trial": 3}, {"configuration": "x"}, {"data": "e"}])
def test_foreign_checkpoint_is_reported_and_not_loaded(tmp_path: Path, other) -> None:
    Checkpoints(Folder(str(tmp_path)), replace(OWNER, **other)).save(3, state(1.0))
    checkpoints = Checkpoints(Folder(str(tmp_path)), OWNER)
    ((name, value),) = other.items()
    with pytest.raises(ForeignCheckpoint, match=f"step-0000000003 belongs to another {name} \\({value}, not"):
        checkpoints.newest()
    assert list(checkpoints.readable()) == []


def test_unknown_data_fingerprint_is_not_compared(tmp_path: Path) -> None:
    Checkpoints(Folder(str(tmp_path)), OWNER).save(3, state(1.0))
    loaded, rejected = Checkpoints(Folder(str(tmp_path)), replace(OWNER, data=None)).newest()
    assert loaded is not None
    assert rejected == []


def test_checkpoint_without_an_owner_is_rejected(tmp_path: Path) -> None:
    path = Path(checkpoints_in(tmp_path).save(3, state(1.0)).url) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({key: manifest[key] for key in ("step", "sha256", "file")}))
    with pytest.raises(ForeignCheckpoint, match="another study \\(unknown, not study\\)"):
        checkpoints_in(tmp_path).newest()
