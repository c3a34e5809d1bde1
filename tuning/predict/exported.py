"""Loads an export folder after checking every file in it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxytune.models.classifier import Classifier
from proxytune.models.errors import ExportError
from proxytune.models.exported import build_classifier, changed_files, read_model_file
from proxytune.tuning.errors import InputError
from proxytune.tuning.export.export import CONFIG, METRICS_FILE, PROVENANCE, SWEEP
from proxytune.tuning.export.front import INDEX
from proxytune.tuning.spec.trial_spec import TrialSpec, load_trial


@dataclass(frozen=True)
class Exported:
    """The contents of an export folder; the classifier is built on request."""

    folder: Path
    spec: TrialSpec
    metrics: dict[str, float]
    provenance: dict[str, Any]
    sweep: dict[str, Any] | None  # None: trained outside of a search

    def classifier(self) -> Classifier:
        """The model with its weights, in eval mode, on the CPU.

        Raises:
            InputError: model.json and the weights do not fit.
        """
        try:
            return build_classifier(self.folder)
        except ExportError as error:
            raise InputError(str(error)) from None


def load_export(folder: Path, assignments: Sequence[str] = ()) -> Exported:
    """Load an export folder whose files are unchanged; `assignments` override its config.yaml.

    Raises:
        InputError: the folder is not an export, is a Pareto front, is damaged, or was written by a newer proxytune.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if (folder / INDEX).exists():
        points = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise InputError(f"{folder} holds a Pareto front; name one of its folders: {', '.join(points)}")
    try:
        problems = changed_files(folder)
        if problems:
            raise InputError(f"{folder} is damaged: {problems[0]}; `proxytune verify` lists the changes")
        read_model_file(folder)
    except ExportError as error:
        raise InputError(str(error)) from None
    spec = load_trial(folder / CONFIG, assignments)
    metrics, provenance = (_read_json(folder / name) for name in (METRICS_FILE, PROVENANCE))
    sweep = _read_json(folder / SWEEP) if (folder / SWEEP).exists() else None
    return Exported(folder, spec, metrics, provenance, sweep)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}") from None
