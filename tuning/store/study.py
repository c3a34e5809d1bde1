"""A study in its storage: create, open, check, read it."""

import json
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.locations import default_uri
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.attributes import BUDGET, DATA, STUDY_ID
from proxytune.tuning.store.checkpoints import Checkpoints, Owner
from proxytune.tuning.store.database import database_url, open_storage
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.folder import Folder
from proxytune.tuning.store.requests import Kind, Requests

SPEC = "spec"  # user attribute of the study: the resolved study file


class Study:
    """A study in its storage: what `run` wrote and every reading verb shows."""

    def __init__(self, spec: StudySpec, storage: RDBStorage, study: optuna.Study) -> None:
        self.spec = spec
        self.storage = storage
        self.optuna = study

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def folder(self) -> Path:
        return self.spec.folder

    @property
    def id(self) -> str:
        """Identifies the study, whatever others had its name; "" for a study of 0.1.0."""
        return str(self.optuna.user_attrs.get(STUDY_ID, ""))

    @property
    def requests(self) -> Requests:
        """What other terminals request of its driver."""
        return Requests(self.storage, self.name, self.id)

    @property
    def budget(self) -> int:
        """The number of trials it may take in all, as its driver will find it."""
        with storage_errors():
            stored = int(self.optuna.user_attrs[BUDGET])
        pending = self.requests.pending(Kind.EXTEND)
        return int(pending[-1].value["trials"]) if pending else stored

    @property
    def data(self) -> dict[str, Any]:
        """The data that its trials train on: task, fingerprint, conventions; empty before the first start."""
        return dict(self.optuna.user_attrs.get(DATA, {}))

    @property
    def tracking_uri(self) -> str:
        return self.spec.tracking.uri or default_uri(self.spec.storage.absolute())

    def trials(self) -> list[FrozenTrial]:
        """All trials by number; not to be changed."""
        with storage_errors():
            return self.optuna.get_trials(deepcopy=False)

    def checkpoints(self, trial: FrozenTrial) -> Checkpoints:
        """The checkpoints of one of its trials, with its storage's parameters."""
        data = trial.user_attrs.get(DATA)
        return trial_checkpoints(self.spec, self.id, trial.number, self.spec.trial(trial.params), data)


def open_study(name: str, storage_folder: Path, database: str | None = None) -> Study:
    """An existing study, to read or to export from.

    Raises:
        InputError: there is none of that name, and which there are.
        StorageError: the storage does not answer.
    """
    folder = storage_folder.absolute() / name
    if database is None and not (folder / "study.db").exists():
        known = sorted(path.parent.name for path in storage_folder.glob("*/study.db"))
        there = f"studies there: {', '.join(known)}" if known else "no study there yet"
        raise InputError(f"no study {name} in {storage_folder.absolute()}; {there}")
    storage = open_storage(database_url(folder, database), create=False)
    return study_in(storage, name, storage_folder, database)


def study_in(storage: RDBStorage, name: str, storage_folder: Path, database: str | None) -> Study:
    """An existing study of an open storage.

    Raises:
        InputError: there is none of that name, or proxytune did not make it.
        StorageError: the storage does not answer.
    """
    with storage_errors():
        try:
            study = optuna.load_study(
                study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler()
            )
        except KeyError:
            raise InputError(f"no study {name} in {database or storage_folder.absolute() / name}") from None
        stored = study.user_attrs.get(SPEC)
    if stored is None:
        raise InputError(f"study {name} was not made by proxytune")
    values = json.loads(stored) | {"storage": str(storage_folder.absolute()), "database": database}
    return Study(parse_study(values, where=f"study {name}"), storage, study)


def trials_folder(spec: StudySpec) -> Folder:
    """Where the trials of a study keep their checkpoints, each in a folder of its number."""
    base = Folder(str(spec.folder)) if spec.checkpoints is None else Folder(spec.checkpoints) / spec.name
    return base / "trials"


def trial_checkpoints(
    spec: StudySpec, study_id: str, number: int, trial: TrialSpec, data: str | None
) -> Checkpoints:
    """The checkpoints of a trial of this number and configuration."""
    return Checkpoints(trials_folder(spec) / str(number), Owner(study_id, number, trial.digest, data))
