"""A trial's checkpoints: the two newest, each complete with its sha256 or not there at all, each bound to its trial.

The state goes first, under a name of its own (a worker that was given up may still write); the manifest that names it
commits it. The manifest also names the study, the trial, its configuration and its data, so that weights of another
training are never taken for this one's.
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
    """The bytes in the storage are not those that were written."""


class ForeignCheckpoint(Exception):
    """The checkpoint belongs to another trial, configuration, study or data."""


@dataclass(frozen=True)
class Owner:
    """What a checkpoint belongs to. data: fingerprint of the data; None: not known here, and not compared."""

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
        """The same checkpoints, for data of this fingerprint."""
        return replace(self, owner=replace(self.owner, data=data))

    def save(self, step: int, state: dict[str, Any]) -> Folder:
        """Write `state` (tensors, numbers, strings, lists, dicts) as the newest checkpoint and drop all but two.

        Raises:
            OSError: the storage refuses; older checkpoints are untouched.
        """
        import torch  # here: what only reads a study needs no torch

        content = (
            io.BytesIO()
        )  # torch raises a RuntimeError without a reason for a file that cannot be written
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
        with suppress(OSError):  # what cannot be deleted now goes with the next one
            self._prune()
        return final

    def newest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest state that verifies (None: there is none), and a line for each newer one that did not.

        Raises:
            ForeignCheckpoint: the newest belongs to something else.
            OSError: the object store does not answer.
        """
        refused: list[str] = []
        for path in self.paths():
            try:
                return self.load(path), refused
            except CorruptCheckpoint as error:
                refused.append(str(error))
        return None, refused

    def readable(self) -> Iterator[dict[str, Any]]:
        """The states that verify and belong to the trial, newest first."""
        for path in self.paths():
            with suppress(CorruptCheckpoint, ForeignCheckpoint):
                yield self.load(path)

    def load(self, path: Folder) -> dict[str, Any]:
        """The state of one checkpoint, verified; nothing in it is executed.

        Raises:
            CorruptCheckpoint: truncated, changed or incomplete, with the reason.
            ForeignCheckpoint: it belongs to something else.
            OSError: the object store does not answer.
        """
        import torch  # here: what only reads a study needs no torch

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
                raise  # a store that is away now is no reason to start the trial from the beginning
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
                    f"checkpoints are not of the same moment or study; restore them together, or move {self.folder} away"
                )

    def _prune(self) -> None:
        kept = {path.name for path, _ in zip(self.paths(), range(KEPT), strict=False)}
        for step in {name.partition("/")[0] for name in self.folder.names()} - kept:
            if step.startswith(_STEP):
                with suppress(
                    FileNotFoundError
                ):  # first, so that no checkpoint that is listed lacks its state
                    (self.folder / step / MANIFEST).delete()
                (self.folder / step).delete_all()


def read_manifest(path: Folder) -> dict[str, Any]:
    """The manifest of one checkpoint.

    Raises:
        OSError, ValueError: it is gone or damaged.
    """
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_bytes())
    return manifest


def _short(value: Any) -> str:
    return "unknown" if value is None else str(value)[:12]
