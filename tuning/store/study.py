"""Study: a study in Optuna's storage, and functions to open it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.attributes import DATA
from proxytune.tuning.store.checkpoints import Checkpoints, Owner
from proxytune.tuning.store.database import holds_studies, open_storage
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.folder import Folder
from proxytune.tuning.store.lease import driver_of
from proxytune.tuning.store.request import Kind
from proxytune.tuning.store.requests import Requests
from proxytune.tuning.store.stored_study import (
    SPEC,
    StoredStudy,
    database_url,
    no_study,
    stored_spec,
    study_url,
)


class Study(StoredStudy):
    """A study in Optuna's storage, to resume or to read."""

    def __init__(self, spec: StudySpec, storage: RDBStorage, study: optuna.Study) -> None:
        self.spec = spec
        self.storage = storage
        self.optuna = study

    @property
    def attributes(self) -> Mapping[str, Any]:
        with storage_errors():
            return self.optuna.user_attrs

    @property
    def requests(self) -> Requests:
        return Requests(self.storage, self.name, self.id)

    def trials(self) -> list[FrozenTrial]:
        with storage_errors():
            return self.optuna.get_trials(deepcopy=False)

    def post(self, kind: Kind, who: str, **value: Any) -> None:
        self.requests.post(kind, who, **value)

    def driver(self) -> str | None:
        return driver_of(self.storage, self.name)

    def checkpoints(self, trial: FrozenTrial) -> Checkpoints:
        """The checkpoints of a trial, whose parameters are taken from the storage."""
        data = trial.user_attrs.get(DATA)
        return trial_checkpoints(self.spec, self.id, trial.number, self.spec.trial(trial.params), data)


def open_study(name: str, storage_folder: Path, database: str | None = None) -> Study:
    """Open an existing study.

    Raises:
        InputError: no study of that name. The message lists the existing studies.
        StorageError: the storage does not respond.
    """
    storage = open_storage(study_url(name, storage_folder, database), create=False)
    return study_in(storage, name, storage_folder, database)


def study_in(storage: RDBStorage, name: str, storage_folder: Path, database: str | None) -> Study:
    """Open an existing study of an open storage.

    Raises:
        InputError: no study of that name, or it was not created by proxytune.
        StorageError: the storage does not respond.
    """
    with storage_errors():
        try:
            study = optuna.load_study(
                study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler()
            )
        except KeyError:
            raise no_study(name, storage_folder, database) from None
        attributes = study.user_attrs
    return Study(stored_spec(attributes, name, storage_folder, database), storage, study)


def find_study(name: str, storage_folder: Path, database: str | None) -> Study | None:
    """The study of that name; None if it does not exist.

    Raises:
        InputError: the study was not created by proxytune.
        StorageError: the storage does not respond.
    """
    url = database_url(storage_folder.absolute() / name, database)
    if not holds_studies(url):
        return None
    storage = open_storage(url, create=False)
    with storage_errors():
        known = optuna.get_all_study_names(storage)
    return study_in(storage, name, storage_folder, database) if name in known else None


def all_studies(storage_folder: Path, database: str) -> list[Study]:
    """The studies of a database that were created by proxytune, by name; empty if it is not an Optuna storage.

    Raises:
        StorageError: the database does not respond.
    """
    if not holds_studies(database):
        return []
    storage = open_storage(database, create=False)
    with storage_errors():
        known = storage.get_all_studies()
    names = sorted(study.study_name for study in known if SPEC in study.user_attrs)
    return [study_in(storage, name, storage_folder, database) for name in names]


def trials_folder(spec: StudySpec) -> Folder:
    """The folder of a study's checkpoints, with one folder per trial number."""
    base = Folder(str(spec.folder)) if spec.checkpoints is None else Folder(spec.checkpoints) / spec.name
    return base / "trials"


def trial_checkpoints(
    spec: StudySpec, study_id: str, number: int, trial: TrialSpec, data: str | None
) -> Checkpoints:
    """The checkpoints of a trial with this number and configuration."""
    return Checkpoints(trials_folder(spec) / str(number), Owner(study_id, number, trial.digest, data))
