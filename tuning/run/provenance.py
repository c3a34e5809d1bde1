"""Provenance of results: code, versions, hardware, data."""

import importlib.metadata
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxytune.datasets import PreparedTask
from proxytune.tuning.errors import InputError
from proxytune.tuning.store.stored_study import StoredStudy


def driver_facts(prepared: PreparedTask | None) -> dict[str, Any]:
    """Code revision, versions, hardware and data of this driver."""
    packages = ("proxytune", "torch", "ray", "optuna", "mlflow", "pyarrow")
    facts: dict[str, Any] = {
        "git_revision": git_revision(),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in packages},
        "hardware": {"host": socket.gethostname()} | hardware(),
    }
    if prepared is not None:
        facts |= {"data_fingerprint": prepared.fingerprint, "conventions": dict(prepared.info.conventions)}
        facts["validation_examples"] = len(prepared.validation)
    return facts


def hardware() -> dict[str, Any]:
    """This machine: architecture, cores, memory and GPUs."""
    return {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpu_names(),
    }


def _gpu_names() -> list[str]:
    """The GPUs that torch sees here; torch is not imported on a machine without an NVIDIA or AMD driver."""
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return []
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def data_facts(prepared: PreparedTask | None) -> dict[str, Any]:
    """Identity and conventions of the data; trainings are comparable only if these are equal."""
    if prepared is None:
        return {}
    return {
        "task": prepared.info.name,
        "fingerprint": prepared.fingerprint,
        "conventions": dict(prepared.info.conventions),
    }


def refuse_other_data(study: StoredStudy, data: Mapping[str, Any]) -> None:
    """Check that the data is the data that the study's trials were trained on, if the study has recorded it.

    Args:
        data: the result of `data_facts` for the current data.

    Raises:
        InputError: the data differs.
    """
    known = study.data
    if known and known["fingerprint"] != data["fingerprint"]:
        raise InputError(
            f"study {study.name} trains on {known['task']} data {known['fingerprint'][:12]}, but the data here is "
            f"{data['fingerprint'][:12]}: restore the data at task.root, or start another study on it"
        )


def git_revision() -> str | None:
    """The commit of the current folder, with -dirty if it has changes; None outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
