"""Writes the winner, or every trial of the Pareto front, as self-contained folders; each is complete or absent.

config.yaml     a TrialSpec, the input of `proxytune train`       metrics.json      the last report
model.json      the folder's format and the model's fields        provenance.json   origin of the model
weights.safetensors, model.pt2, model.onnx                        sweep.json        the whole search
card.md         description for readers                           SHA256SUMS
"""

import importlib.metadata
import json
import platform
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from proxytune.datasets.openings import recorded_openings
from proxytune.models.classifier import Classifier
from proxytune.models.exported import MODEL, WEIGHTS, model_file
from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.export.card import card
from proxytune.tuning.export.choose import Selection, choose
from proxytune.tuning.export.front import point_name, write_index
from proxytune.tuning.export.programs import write_programs
from proxytune.tuning.export.request import THE_WINNER, ExportRequest
from proxytune.tuning.export.sums import write_sums
from proxytune.tuning.export.sweep_record import sweep_card
from proxytune.tuning.run.provenance import data_facts, git_revision, hardware, refuse_other_data
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.spec.yaml_file import as_yaml
from proxytune.tuning.store.checkpoints import ForeignCheckpoint
from proxytune.tuning.store.confirmation import Confirmation, read_confirmation
from proxytune.tuning.store.records import TrialRecord, strict_json, study_records
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.test_split import read_openings
from proxytune.tuning.trial.data import prepare_task
from proxytune.tuning.trial.trial_run import final_weights

CONFIG, METRICS_FILE, PROVENANCE, SWEEP, CARD = (
    "config.yaml",
    "metrics.json",
    "provenance.json",
    "sweep.json",
    "card.md",
)
Say = Callable[[str], None]


@dataclass(frozen=True)
class ExportResult:
    """A folder that was written."""

    folder: Path
    record: TrialRecord
    selection: Selection


def export_study(
    study: Study,
    folder: Path,
    request: ExportRequest = THE_WINNER,
    say: Say = lambda line: None,
) -> list[ExportResult]:
    """Write the chosen trial to `folder`, or a folder for each trial of the Pareto front with an index.

    Args:
        study: the study to export from.
        folder: a path that does not exist.
        request: the trial to export; by default the study's winner.
        say: called with progress messages.

    Raises:
        InputError: the folder exists, no trial satisfies the request, or the data differs from that of the trials.
        StorageError: a checkpoint is missing or damaged, or the folder cannot be written; partial files are removed.
        DataError: the task's data is missing or damaged.
    """
    refuse_existing(folder)
    refuse_other_data(study, data_facts(prepare_task(study.spec.task)))
    records, confirmation = study_records(study), read_confirmation(study)
    selections = choose(
        study.name, records, study.spec.search.objectives, study.spec.constraints, request, confirmation
    )
    if not request.pareto:
        (selection,) = selections
        with whole(folder) as temporary:
            _write_trial(temporary, study, records, selection, confirmation, say)
        return [ExportResult(folder, records[selection.trial], selection)]
    with whole(folder) as temporary:
        for position, selection in enumerate(selections, 1):
            say(f"point {position} of {len(selections)}: trial {selection.trial}")
            point = temporary / point_name(selection.trial)
            point.mkdir()
            _write_trial(point, study, records, selection, confirmation, say)
        write_index(temporary, study.name, records, selections)
        write_sums(temporary)
    return [
        ExportResult(folder / point_name(selection.trial), records[selection.trial], selection)
        for selection in selections
    ]


def _write_trial(
    folder: Path,
    study: Study,
    records: Sequence[TrialRecord],
    selection: Selection,
    confirmation: Confirmation | None,
    say: Say,
) -> None:
    record = records[selection.trial]
    try:
        state, refused = study.checkpoints(study.trials()[record.trial]).newest()
    except ForeignCheckpoint as error:
        raise StorageError(f"trial {record.trial} cannot be exported: {error}") from None
    if state is None or state["trainer"]["step"] != record.step:
        detail = refused[0] if refused else f"no checkpoint of step {record.step}"
        raise StorageError(f"trial {record.trial} cannot be exported: {detail}")
    spec = study.spec.trial(record.params)
    openings = _openings(study, spec)
    prepared = prepare_task(spec.task)
    sweep = sweep_card(study, records, selection, confirmation, openings, data_facts(prepared))
    provenance = {
        "study": study.name,
        "trial": record.trial,
        "trial_key": f"{study.name}/{record.trial}",
        "params": record.params,
        "selected_by": selection.text,
        "sampler": study.spec.search.sampler.model_dump(),
        "trials_in_study": len(records),
        "test_openings": openings,
    }
    write_folder(folder, spec, record.metrics, provenance, final_weights(state), sweep, say)


def _openings(study: Study, spec: TrialSpec) -> list[dict[str, str]]:
    """All recorded openings of the test split for this study: by its confirmation, and by `evaluate` on this machine."""
    confirmed = [
        {"at": opening["at"], "by": opening["by"], "what": _subject(opening["subject"])}
        for opening in read_openings(study)
    ]
    mark = evaluation_mark(study.name)
    evaluated = [
        {"at": opening["time"], "by": opening["by"], "what": opening["reason"]}
        for opening in recorded_openings(prepare_task(spec.task).folder)
        if opening["reason"].startswith(mark)
    ]
    return sorted([*confirmed, *evaluated], key=lambda opening: opening["at"])


def _subject(subject: Mapping[str, Any]) -> str:
    """Description of the models of an opening."""
    if "trial" in subject:
        return f"confirm, trial {subject['trial']}"
    return f"compare, all {len(subject['trials'])} trials of the fixed list"


def evaluation_mark(name: str) -> str:
    """Prefix of the recorded reason of each opening by `proxytune evaluate` for a study's models."""
    return f"evaluate {name}:"


def refuse_existing(folder: Path) -> None:
    """Raise InputError if the folder exists: files of the user are never overwritten."""
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} exists; name a folder that does not exist, or remove it first")


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `folder` at exit, or removed if an error was raised.

    Raises:
        InputError: the folder exists.
        StorageError: the folder cannot be written.
    """
    refuse_existing(folder)
    temporary = folder.absolute().parent / f".{folder.name}-{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(folder)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_folder(
    folder: Path,
    spec: TrialSpec,
    metrics: Mapping[str, float],
    provenance: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    sweep: Mapping[str, Any] | None,
    say: Say,
) -> None:
    """Fill an empty folder with one model.

    Args:
        folder: an existing, empty folder.
        spec: the trained configuration.
        metrics: metrics of its last report.
        provenance: origin of the model; versions, data and hardware are added.
        weights: the classifier's state_dict.
        sweep: the sweep card; None for a model trained outside of a search.
        say: called with progress messages.

    Raises:
        DataError: the task's data is missing or damaged.
        OSError: the files cannot be written.
    """
    prepared = prepare_task(spec.task)
    config = spec.model_config_for(prepared.info)
    (folder / CONFIG).write_text(as_yaml(spec.model_dump(mode="json")), encoding="utf-8")
    write_json(folder / METRICS_FILE, dict(metrics))
    write_json(folder / MODEL, model_file(config))
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors creates it with 0600
    say("writing model.pt2 and model.onnx, and running each in a fresh process")
    model = Classifier(config)
    model.load_state_dict(dict(weights))
    facts = {
        **provenance,
        "seed": spec.seed,
        "git_revision": git_revision(),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in ("proxytune", "torch", "numpy")},
        "hardware": hardware(),
        "data": data_facts(prepared),
        "programs": write_programs(folder, model.eval(), prepared),
    }
    write_json(folder / PROVENANCE, facts)
    if sweep is not None:
        write_json(folder / SWEEP, sweep)
    (folder / CARD).write_text(card(spec, config, metrics, facts, sweep), encoding="utf-8")
    write_sums(folder)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON; numbers that are not finite become strings."""
    path.write_text(json.dumps(strict_json(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")
