"""Checkpoints: complete or not there, verified, the two newest kept."""

from pathlib import Path

import pytest
import torch

from proxytune.tuning.store.checkpoints import (
    CorruptCheckpoint,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)


def state(value: float) -> dict[str, object]:
    return {"weights": torch.full((4, 3), value), "step": 3, "name": "a", "losses": [1.0, value]}


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    loaded = load_checkpoint(save_checkpoint(tmp_path, 3, state(0.5)))
    assert torch.equal(loaded["weights"], torch.full((4, 3), 0.5))
    assert {key: loaded[key] for key in ("step", "name", "losses")} == {
        "step": 3,
        "name": "a",
        "losses": [1.0, 0.5],
    }


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 30, 4):
        save_checkpoint(tmp_path, step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000000004", "step-0000000030"]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("file", ["state.pt", "manifest.json"])
def test_a_damaged_newest_is_named_and_the_one_before_is_taken(tmp_path: Path, damage, file: str) -> None:
    save_checkpoint(tmp_path, 1, state(1.0))
    newest = save_checkpoint(tmp_path, 2, state(2.0))
    damage(newest / file)
    with pytest.raises(CorruptCheckpoint, match="step-0000000002"):
        load_checkpoint(newest)
    loaded, refused = newest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded["weights"][0, 0] == 1.0
    assert len(refused) == 1
    assert "step-0000000002" in refused[0]


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    import hashlib
    import json
    import pickle

    canary = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (canary,))

    folder = tmp_path / "step-0000000001"
    folder.mkdir()
    payload = pickle.dumps(Hostile())
    (folder / "state.pt").write_bytes(payload)
    (folder / "manifest.json").write_text(
        json.dumps({"step": 1, "sha256": hashlib.sha256(payload).hexdigest()})
    )
    with pytest.raises(CorruptCheckpoint):
        load_checkpoint(folder)
    assert not canary.exists()


def test_a_write_that_fails_leaves_the_older_one_and_nothing_half_written(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state(1.0))
    with pytest.raises(Exception, match=r"pickle|lambda"):
        save_checkpoint(tmp_path, 2, {"not storable": lambda: None})
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000001"]
