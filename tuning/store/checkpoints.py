"""A trial's checkpoints: the two newest, each committed atomically with its sha256 and bound to its trial.

The state is written first, under a unique name (an abandoned worker may still write). The manifest that names it
commits it. The manifest also identifies the study, the trial, its configuration and its data, so that weights of another
training are never loaded.
"""

import hashlib
import io
import json
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from proxytune.tuning.store.folder import Folder

KEPT = 2
MANIFEST = "manifest.json"
_STEP = "step-"


class CorruptCheckpoint(Exception):
    """The stored bytes differ from those that were written, or the checkpoint is incomplete."""


class ForeignCheckpoint(Exception):
    """The checkpoint belongs to another trial, configuration, study or data."""


@dataclass(frozen=True)
class Owner:
    """The training that a checkpoint belongs to. data: fingerprint of the data; None: unknown, not compared."""

    study: str  # the study's id
    trial: int
    configuration: str  # TrialSpec.digest
    data: str | None = None


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one trial in its folder."""

    folder: Folder
    owner: Owner

    def to_json(self) -> str:
        return json.dumps({"folder": self.folder.url, **asdict(self.owner)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(Folder(values.pop("folder")), Owner(**values))

    def trained_on(self, data: str) -> Self:
        """A copy that is bound to data of this fingerprint."""
        return replace(self, owner=replace(self.owner, data=data))

    def save(self, step: int, state: dict[str, Any]) -> Folder:
        """Write `state` (tensors, numbers, strings, lists, dicts) as the newest checkpoint and keep the newest two.

        Raises:
            OSError: the write failed. Older checkpoints are unchanged.
        """
        import torch  # imported here: reading a study must not import torch

        content = (
            io.BytesIO()
        )  # in memory: for an unwritable file torch raises a RuntimeError without the reason
        torch.save(state, content)
        final = self.folder / f"{_STEP}{step:010d}"
        file = final / f"state-{uuid.uuid4().hex}.pt"
        manifest = {
            "step": step,
            "sha256": hashlib.sha256(content.getbuffer()).hexdigest(),
            "file": file.name,
            **asdict(self.owner),
        }
        file.write_bytes(content.getbuffer())
        try:
            (final / MANIFEST).write_bytes(json.dumps(manifest).encode())
        except OSError:
            with suppress(OSError):
                file.delete()
            raise
        with suppress(OSError):  # what cannot be deleted now is deleted after the next checkpoint
            self._prune()
        return final

    def newest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest valid state (None if there is none), and one line for each newer, corrupt checkpoint.

        Raises:
            ForeignCheckpoint: the newest readable checkpoint belongs to another training.
            OSError: the object store does not respond.
        """
        refused: list[str] = []
        for path in self.paths():
            try:
                return self.load(path), refused
            except CorruptCheckpoint as error:
                refused.append(str(error))
        return None, refused

    def readable(self) -> Iterator[dict[str, Any]]:
        """The valid states of this trial, newest first."""
        for path in self.paths():
            with suppress(CorruptCheckpoint, ForeignCheckpoint):
                yield self.load(path)

    def load(self, path: Folder) -> dict[str, Any]:
        """Load and verify the state of one checkpoint. No code in it is executed.

        Raises:
            CorruptCheckpoint: truncated, changed or incomplete, with the reason.
            ForeignCheckpoint: it belongs to another training.
            OSError: the object store does not respond.
        """
        import torch  # imported here: reading a study must not import torch

        try:
            manifest = read_manifest(path)
            self._check_owner(path, manifest)
            content = (path / manifest["file"]).read_bytes()
            if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
                raise CorruptCheckpoint(f"{path}: the state does not match the sha256 of its manifest")
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (CorruptCheckpoint, ForeignCheckpoint):
            raise
        except Exception as error:
            if type(error) is OSError and not path.is_local:
                raise  # an unreachable store must not restart the trial from the beginning
            raise CorruptCheckpoint(f"{path}: {type(error).__name__}: {error}") from error
        return state

    def paths(self) -> Iterator[Folder]:
        """The checkpoints, newest first."""
        listed = [name.partition("/")[0] for name in self.folder.names() if name.endswith(f"/{MANIFEST}")]
        yield from (self.folder / name for name in sorted(listed, reverse=True))

    def _check_owner(self, path: Folder, manifest: dict[str, Any]) -> None:
        for name, mine in asdict(self.owner).items():
            theirs = manifest.get(name)
            if mine is not None and theirs != mine:
                raise ForeignCheckpoint(
                    f"{path} belongs to another {name} ({_short(theirs)}, not {_short(mine)}): the database and the "
                    f"checkpoints do not match; restore both from the same backup, or move {self.folder} away"
                )

    def _prune(self) -> None:
        kept = {path.name for path, _ in zip(self.paths(), range(KEPT), strict=False)}
        for step in {name.partition("/")[0] for name in self.folder.names()} - kept:
            if step.startswith(_STEP):
                with suppress(FileNotFoundError):
                    (
                        self.folder / step / MANIFEST
                    ).delete()  # first, so that no listed checkpoint lacks its state
                (self.folder / step).delete_all()


def read_manifest(path: Folder) -> dict[str, Any]:
    """The manifest of one checkpoint.

    Raises:
        OSError, ValueError: the manifest is missing or damaged.
    """
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_bytes())
    return manifest


def _short(value: Any) -> str:
    return "unknown" if value is None else str(value)[:12]
