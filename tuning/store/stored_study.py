"""StoredStudy: the interface to a stored study for reading and steering."""

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
    """A stored study, independent of how its storage is read.

    Raises:
        StorageError: from any method or property, the storage does not respond.
    """

    spec: StudySpec

    @property
    @abstractmethod
    def attributes(self) -> Mapping[str, Any]:
        """Its user attributes (attributes.py)."""

    @property
    @abstractmethod
    def requests(self) -> RequestLog:
        """The requests to its driver."""

    @abstractmethod
    def trials(self) -> Sequence[StoredTrial]:
        """All trials by number. The caller must not modify them."""

    @abstractmethod
    def driver(self) -> str | None:
        """Description of the process that holds its lease; None if the lease is not held."""

    @abstractmethod
    def post(self, kind: Kind, who: str, **value: Any) -> None:
        """Post a request to its driver."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def folder(self) -> Path:
        return self.spec.folder

    @property
    def id(self) -> str:
        """Unique id, which differs from that of earlier studies of the same name; "" for a study of 0.1.0."""
        return str(self.attributes.get(STUDY_ID, ""))

    @property
    def budget(self) -> int:
        """The total number of trials, including a pending `extend`."""
        pending = self.requests.pending(Kind.EXTEND)
        return int(pending[-1].value["trials"] if pending else self.attributes[BUDGET])

    @property
    def ended_because(self) -> str | None:
        """Why the study ended before its budget was spent; None if it did not, or if `extend` changed the budget since."""
        ended = self.attributes.get(ENOUGH)
        return str(ended["reason"]) if ended and ended["budget"] == self.budget else None

    @property
    def data(self) -> dict[str, Any]:
        """The training data: task, fingerprint, conventions; empty before the first start."""
        return dict(self.attributes.get(DATA, {}))

    @property
    def tracking_uri(self) -> str:
        return self.spec.tracking.uri or default_uri(self.spec.storage.absolute())


def study_url(name: str, storage_folder: Path, database: str | None) -> str:
    """The SQLAlchemy URL of an existing study's storage.

    Raises:
        InputError: its file does not exist. The message lists the existing studies.
    """
    folder = storage_folder.absolute() / name
    if database is None and not (folder / "study.db").exists():
        known = sorted(path.parent.name for path in storage_folder.glob("*/study.db"))
        there = f"studies there: {', '.join(known)}" if known else "no study there yet"
        raise InputError(f"no study {name} in {storage_folder.absolute()}; {there}")
    return database_url(folder, database)


def database_url(folder: Path, database: str | None) -> str:
    """The SQLAlchemy URL of a study's storage: `database`, or by default the study's own sqlite file."""
    return database or f"sqlite:///{folder / 'study.db'}"


def no_study(name: str, storage_folder: Path, database: str | None) -> InputError:
    """The error for a study that does not exist in the storage."""
    return InputError(f"no study {name} in {database or storage_folder.absolute() / name}")


def stored_spec(
    attributes: Mapping[str, Any], name: str, storage_folder: Path, database: str | None
) -> StudySpec:
    """The spec stored in a study's attributes, with its current storage and database.

    Raises:
        InputError: the study was not created by proxytune.
    """
    if SPEC not in attributes:
        raise InputError(f"study {name} was not created by proxytune")
    values = json.loads(attributes[SPEC]) | {"storage": str(storage_folder.absolute()), "database": database}
    return parse_study(values, where=f"study {name}")
