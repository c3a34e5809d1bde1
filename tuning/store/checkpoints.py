"""A trial's checkpoints: the two newest, each complete with its sha256 or not there at all (DESIGN.md section 3)."""

import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

import torch

from proxytune.tuning.store.object_store import Folder, ObjectFolder

KEPT = 2
MANIFEST = "manifest.json"


class CorruptCheckpoint(Exception):
    """The bytes in the storage are not those that were written."""


def save_checkpoint(folder: Folder, step: int, state: dict[str, Any]) -> Folder:
    """Write `state` (tensors, numbers, strings, lists, dicts) as the newest checkpoint and drop all but two.

    Raises:
        OSError: the storage refuses; older checkpoints are untouched.
    """
    if isinstance(folder, ObjectFolder):
        return _save_objects(folder, step, state)
    final = folder / f"step-{step:010d}"
    temporary = folder / f".{final.name}-{uuid.uuid4().hex}"
    content = io.BytesIO()  # torch makes a RuntimeError without a reason of a file that cannot be written
    torch.save(state, content)
    manifest = {"step": step, "sha256": hashlib.sha256(content.getbuffer()).hexdigest()}
    try:
        temporary.mkdir(parents=True)
        for name, written in (("state.pt", content.getbuffer()), (MANIFEST, json.dumps(manifest).encode())):
            with open(temporary / name, "wb") as file:
                file.write(written)
                file.flush()
                os.fsync(file.fileno())
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _save_objects(folder: ObjectFolder, step: int, state: dict[str, Any]) -> ObjectFolder:
    """The state under a name of its own (a worker that was given up may still write), then the manifest that names it."""
    final = folder / f"step-{step:010d}"
    content = io.BytesIO()
    torch.save(state, content)
    name = f"state-{uuid.uuid4().hex}.pt"
    (final / name).write_bytes(content.getbuffer())
    manifest = {"step": step, "sha256": hashlib.sha256(content.getbuffer()).hexdigest(), "file": name}
    (final / MANIFEST).write_bytes(json.dumps(manifest).encode())
    kept = {path.name for path, _ in zip(checkpoint_paths(folder), range(KEPT), strict=False)}
    # Manifests first, so that no checkpoint that is listed lacks its state.
    for old in sorted(folder.names(), key=lambda name: not name.endswith(MANIFEST)):
        if old.partition("/")[0] not in kept:
            (folder / old).delete()
    return final


def load_checkpoint(path: Folder) -> dict[str, Any]:
    """The state of one checkpoint, verified; nothing in it is executed.

    Raises:
        CorruptCheckpoint: truncated, changed or incomplete, with the reason.
        OSError: the object store does not answer.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        content = (path / manifest.get("file", "state.pt")).read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
            raise CorruptCheckpoint(f"{path}: the state does not match the sha256 of its manifest")
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except CorruptCheckpoint:
        raise
    except Exception as error:
        if isinstance(path, ObjectFolder) and isinstance(error, OSError) and type(error) is OSError:
            raise  # a store that is away now is no reason to begin the trial again
        raise CorruptCheckpoint(f"{path}: {type(error).__name__}: {error}") from error
    return state


def newest_checkpoint(folder: Folder) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest state that verifies (None: there is none), and a line for each newer one that did not."""
    refused: list[str] = []
    for path in checkpoint_paths(folder):
        try:
            return load_checkpoint(path), refused
        except CorruptCheckpoint as error:
            refused.append(str(error))
    return None, refused


def checkpoint_paths(folder: Folder) -> Iterator[Folder]:
    """The checkpoints of a trial, newest first."""
    if isinstance(folder, ObjectFolder):
        listed = [name.partition("/")[0] for name in folder.names() if name.endswith(f"/{MANIFEST}")]
        yield from (folder / name for name in sorted(listed, reverse=True))
    else:
        yield from sorted(folder.glob("step-*"), reverse=True)
