"""A trial's checkpoints: the two newest, each complete with its sha256 or not there at all (DESIGN.md section 3)."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

KEPT = 2


class CorruptCheckpoint(Exception):
    """The bytes on disk are not those that were written."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` (tensors, numbers, strings, lists, dicts) as the newest checkpoint and drop all but two.

    Raises:
        OSError: the storage refuses; older checkpoints are untouched.
    """
    final = folder / f"step-{step:010d}"
    temporary = folder / f".{final.name}-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        with open(temporary / "state.pt", "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        manifest = {"step": step, "sha256": _sha256(temporary / "state.pt")}
        with open(temporary / "manifest.json", "w", encoding="utf-8") as text:
            json.dump(manifest, text)
            text.flush()
            os.fsync(text.fileno())
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state of one checkpoint, verified; nothing in it is executed.

    Raises:
        CorruptCheckpoint: truncated, changed or incomplete, with the reason.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if _sha256(path / "state.pt") != manifest["sha256"]:
            raise CorruptCheckpoint(f"{path}: state.pt does not match the sha256 of its manifest")
        state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except CorruptCheckpoint:
        raise
    except Exception as error:
        raise CorruptCheckpoint(f"{path}: {type(error).__name__}: {error}") from error
    return state


def newest_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest state that verifies (None: there is none), and a line for each newer one that did not."""
    refused: list[str] = []
    for path in checkpoint_paths(folder):
        try:
            return load_checkpoint(path), refused
        except CorruptCheckpoint as error:
            refused.append(str(error))
    return None, refused


def checkpoint_paths(folder: Path) -> Iterator[Path]:
    """The checkpoints of a trial, newest first."""
    yield from sorted(folder.glob("step-*"), reverse=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
