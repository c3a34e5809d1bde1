"""The winner as one folder that anybody can run again: config.yaml, metrics.json, provenance.json, weights.safetensors."""

import importlib.metadata
import json
import platform
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from safetensors.torch import save_file
from torch import Tensor

from proxytune.tuning.data import prepare_task
from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.provenance import data_facts, git_revision
from proxytune.tuning.search.ledger import END, trial_folder
from proxytune.tuning.study import Study
from proxytune.tuning.summary import outcome_of
from proxytune.tuning.trial.checkpoints import newest_checkpoint
from proxytune.tuning.trial_spec import TrialSpec
from proxytune.tuning.yaml_file import as_yaml


def export_trial(study: Study, folder: Path, number: int | None = None) -> FrozenTrial:
    """Write a trial of the full budget (default: the winner) to a new folder, whole or not at all.

    Raises:
        InputError: the folder exists, there is no such trial, or it did not reach the full budget.
        StorageError: its checkpoint is gone or damaged, or the folder cannot be written.
    """
    refuse_existing(folder)
    trial = _choose(study, number)
    state, refused = newest_checkpoint(trial_folder(study.spec, trial.number))
    end = trial.user_attrs[END]
    if state is None or state["trainer"]["step"] != end["step"]:
        detail = refused[0] if refused else f"no checkpoint of step {end['step']}"
        raise StorageError(f"trial {trial.number} cannot be exported: {detail}")
    spec = study.spec.trial(trial.params)
    provenance = {
        "study": study.name,
        "trial": trial.number,
        "trial_key": f"{study.name}/{trial.number}",
        "params": trial.params,
        "selected_by": dict(study.spec.search.objectives),
        "sampler": study.spec.search.sampler.model_dump(),
        "trials_in_study": len(study.trials()),
    }
    write_export(folder, spec, end["metrics"], provenance, state["trainer"]["model"])
    return trial


def _choose(study: Study, number: int | None) -> FrozenTrial:
    trials = study.trials()
    if number is None:
        best = study.best()
        if not best:
            raise InputError(
                f"study {study.name} has no trial of the full budget within its constraints yet; run it further"
            )
        return best[0]
    if not 0 <= number < len(trials):
        raise InputError(f"study {study.name} has no trial {number}; it has 0 to {len(trials) - 1}")
    if trials[number].state != TrialState.COMPLETE:
        raise InputError(
            f"trial {number} is {outcome_of(trials[number])}; only a complete trial can be exported"
        )
    return trials[number]


def refuse_existing(folder: Path) -> None:
    """Raises InputError if the folder exists: a user's files are never overwritten."""
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} exists; name a folder that does not, or remove it first")


def write_export(
    folder: Path,
    spec: TrialSpec,
    metrics: Mapping[str, float],
    provenance: Mapping[str, Any],
    weights: Mapping[str, Tensor],
) -> None:
    """Write an export under a temporary name beside `folder`, then rename it.

    Raises:
        InputError: the folder exists.
        StorageError: it cannot be written; nothing is left behind.
    """
    refuse_existing(folder)
    prepared = prepare_task(spec.task)
    facts = dict(provenance) | {
        "seed": spec.seed,
        "git_revision": git_revision(),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in ("proxytune", "torch", "numpy")},
        "data": data_facts(prepared),
    }
    temporary = folder.absolute().parent / f".{folder.name}-{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        (temporary / "config.yaml").write_text(as_yaml(spec.model_dump(mode="json")), encoding="utf-8")
        for name, value in (("metrics.json", dict(metrics)), ("provenance.json", facts)):
            (temporary / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        save_file(
            {key: value.contiguous() for key, value in weights.items()}, temporary / "weights.safetensors"
        )
        temporary.rename(folder)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
