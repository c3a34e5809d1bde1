"""A study as its storage holds it, for whoever reads and steers it."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.locations import default_uri
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.store.attributes import BUDGET, DATA, ENOUGH, STUDY_ID, StoredTrial
from proxytune.tuning.store.request import Kind, RequestLog

SPEC = "spec"  # user attribute of the study: the resolved study file


class StoredStudy(ABC):
    """A study that may be read, whoever reads its storage.

    Raises:
        StorageError: from any method or property, the storage does not answer.
    """

    spec: StudySpec

    @property
    @abstractmethod
    def attributes(self) -> Mapping[str, Any]:
        """Its user attributes (attributes.py)."""

    @property
    @abstractmethod
    def requests(self) -> RequestLog:
        """What other terminals request of its driver."""

    @abstractmethod
    def trials(self) -> Sequence[StoredTrial]:
        """All trials by number; not to be changed."""

    @abstractmethod
    def driver(self) -> str | None:
        """Which process holds its lease, if one does."""

    @abstractmethod
    def post(self, kind: Kind, who: str, **value: Any) -> None:
        """Request something of its driver."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def folder(self) -> Path:
        return self.spec.folder

    @property
    def id(self) -> str:
        """Identifies the study, whatever others had its name; "" for a study of 0.1.0."""
        return str(self.attributes.get(STUDY_ID, ""))

    @property
    def budget(self) -> int:
        """The number of trials it may take in all, as its driver will find it."""
        pending = self.requests.pending(Kind.EXTEND)
        return int(pending[-1].value["trials"] if pending else self.attributes[BUDGET])

    @property
    def ended_because(self) -> str | None:
        """Why it ended before its budget was spent, if it did; another budget (`extend`) lets it go on."""
        ended = self.attributes.get(ENOUGH)
        return str(ended["reason"]) if ended and ended["budget"] == self.budget else None

    @property
    def data(self) -> dict[str, Any]:
        """The data that its trials train on: task, fingerprint, conventions; empty before the first start."""
        return dict(self.attributes.get(DATA, {}))

    @property
    def tracking_uri(self) -> str:
        return self.spec.tracking.uri or default_uri(self.spec.storage.absolute())


def study_url(name: str, storage_folder: Path, database: str | None) -> str:
    """The SQLAlchemy URL of an existing study's storage.

    Raises:
        InputError: there is no file of it, and which studies there are.
    """
    folder = storage_folder.absolute() / name
    if database is None and not (folder / "study.db").exists():
        known = sorted(path.parent.name for path in storage_folder.glob("*/study.db"))
        there = f"studies there: {', '.join(known)}" if known else "no study there yet"
        raise InputError(f"no study {name} in {storage_folder.absolute()}; {there}")
    return database_url(folder, database)


def database_url(folder: Path, database: str | None) -> str:
    """The SQLAlchemy URL of a study's storage: its own sqlite file, unless the study names a database."""
    return database or f"sqlite:///{folder / 'study.db'}"


def no_study(name: str, storage_folder: Path, database: str | None) -> InputError:
    """The error for a study that its storage does not have."""
    return InputError(f"no study {name} in {database or storage_folder.absolute() / name}")


def stored_spec(
    attributes: Mapping[str, Any], name: str, storage_folder: Path, database: str | None
) -> StudySpec:
    """The spec among a study's attributes, at the place where the study lies now.

    Raises:
        InputError: proxytune did not make the study.
    """
    if SPEC not in attributes:
        raise InputError(f"study {name} was not made by proxytune")
    values = json.loads(attributes[SPEC]) | {"storage": str(storage_folder.absolute()), "database": database}
    return parse_study(values, where=f"study {name}")
