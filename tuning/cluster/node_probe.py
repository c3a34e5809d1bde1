"""The checks that `proxytune doctor` runs on each node: facts, and results as (OK or RED, a message)."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

from proxytune.datasets import DataError, open_prepared
from proxytune.datasets.prepare import prepared_folder
from proxytune.tuning.cluster.private import check_private
from proxytune.tuning.cluster.ray_private import session_folder
from proxytune.tuning.errors import InputError, StorageError, one_line
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.folder import Folder, try_folder
from proxytune.tuning.trial.data import cache_folder

OK, WARNING, RED = "ok", "warning", "red"
PACKAGES = ("ray", "torch", "proxytune", "pyarrow", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages in this process."""
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in PACKAGES
    }


class NodeProbe:
    """Runs on a node with the same environment, user and packages as trials."""

    def clock(self) -> float:
        return time.time()

    def inspect(self, spec_json: str | None, marker: str | None) -> dict[str, Any]:
        spec = None if spec_json is None else StudySpec.model_validate_json(spec_json)
        return {
            "versions": versions(),
            "cuda": _cuda(),
            "folder": _check_folder(),
            "memory_gib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
            "storage": None if marker is None else _write_marker(Path(marker)),
            "checkpoints": None
            if spec is None or spec.checkpoints is None
            else _check_store(spec.checkpoints),
        } | ({"data": None, "fingerprint": None} if spec is None else _check_data(spec))


def _check_folder() -> tuple[str, str]:
    folder = session_folder()
    try:
        check_private(folder)
    except InputError as error:
        return RED, str(error)
    return OK, f"{folder} is private to this user"


def _write_marker(marker: Path) -> tuple[str, str]:
    """(OK, the name of a file written next to the driver's file) or (RED, an error message)."""
    if not (marker / "driver").exists():
        return RED, f"{marker.parent} is not the driver's folder there: mount the shared one on every node"
    try:
        name = uuid.uuid4().hex
        (marker / name).write_text(platform.node())
        return OK, name
    except OSError as error:
        return RED, f"{marker.parent} cannot be written there: {error.strerror} (as user {os.getuid()})"


def _check_store(url: str) -> tuple[str, str]:
    try:
        try_folder(Folder(url))
    except StorageError as error:
        return RED, str(error)
    return OK, f"{url} is writable"


def _check_data(spec: StudySpec) -> dict[str, Any]:
    task, cache = spec.task, cache_folder()
    try:
        folder = prepared_folder(task.name, **task.source, cache=cache, **task.options)
        if folder.exists():
            return {"data": (OK, f"prepared in {folder}"), "fingerprint": open_prepared(folder).fingerprint}
        cache.mkdir(parents=True, exist_ok=True)
        marker = cache / f".doctor-{uuid.uuid4().hex}"
        marker.write_text("")
        marker.unlink()
    except DataError as error:
        return {"data": (RED, one_line(error)), "fingerprint": None}
    except OSError as error:
        text = f"{cache} cannot be written: {error.strerror}; set PROXYTUNE_CACHE to a writable folder"
        return {"data": (RED, text), "fingerprint": None}
    text = f"not prepared yet; will be prepared, {task.described_source()}, before the first trial there"
    return {"data": (OK, text), "fingerprint": None}


def _cuda() -> dict[str, Any]:
    """The CUDA version that torch was built for, and the GPUs listed by nvidia-smi."""
    import torch

    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    gpus: list[str] = []
    if shutil.which(query[0]):
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
        gpus = done.stdout.splitlines() if done.returncode == 0 else []
    return {"build": torch.version.cuda, "gpus": gpus}
