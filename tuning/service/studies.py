"""Open studies of one server, cached; changes by other processes are seen at the next access."""

import threading
from collections import OrderedDict
from pathlib import Path

from optuna.storages import RDBStorage

from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.service.problems import NotFound
from proxytune.tuning.spec.trial_spec import NAME
from proxytune.tuning.store.database import open_storage
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.stored_study import SPEC
from proxytune.tuning.store.study import Study, open_study, study_in

KEPT = 64
"""Studies kept open: their finished trials stay in memory, and each sqlite file takes a few descriptors."""


class _Open:
    """An open study, with the values that show whether it must be opened again."""

    def __init__(self, study: Study, location: object) -> None:
        self.study, self.location = study, location
        with storage_errors():
            self._spec = study.optuna.user_attrs.get(SPEC)

    def is_fresh(self) -> bool:
        """Whether the stored spec is unchanged."""
        with storage_errors():
            try:
                return bool(self.study.optuna.user_attrs.get(SPEC) == self._spec)
            except KeyError:  # deleted
                return False


class Studies:
    """Studies by name, in a folder of sqlite files or in one database."""

    def __init__(self, storage: Path, database: str | None) -> None:
        self._folder, self._database = storage, database
        self._shared: RDBStorage | None = None
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Open] = OrderedDict()

    def names(self) -> list[str]:
        """Names of all studies, sorted.

        Raises:
            StorageError: the storage cannot be read.
        """
        if self._database is None:
            if not self._folder.is_dir():
                raise StorageError(f"{self._folder}: the folder of the studies does not exist")
            try:
                found = [path.parent.name for path in self._folder.glob("*/study.db")]
            except OSError as error:
                raise StorageError(f"{self._folder}: {error.strerror}") from None
            return sorted(name for name in found if NAME.fullmatch(name))
        with storage_errors():
            studies = self._storage().get_all_studies()
        return sorted(study.study_name for study in studies if SPEC in study.user_attrs)

    def get(self, name: str) -> Study:
        """Return the study in its current state.

        Raises:
            NotFound: there is no study of that name.
            StorageError: the storage does not respond.
        """
        location = self._location(name)
        with self._lock:
            known = self._open.get(name)
        if known is not None and known.location == location and known.is_fresh():
            return known.study
        opened = _Open(self._opened(name), location)
        with self._lock:
            self._open[name] = opened
            self._open.move_to_end(name)
            if len(self._open) > KEPT:
                _, oldest = self._open.popitem(last=False)
                if self._database is None:
                    oldest.study.storage.engine.dispose()
        return opened.study

    def _location(self, name: str) -> object:
        """Identity of the stored study; it changes if the study is replaced by another of the same name."""
        missing = NotFound(f"no study {name!r} on this server")
        if not NAME.fullmatch(name):
            raise missing
        if self._database is not None:
            with storage_errors():
                try:
                    return self._storage().get_study_id_from_name(name)
                except KeyError:
                    raise missing from None
        path = self._folder / name / "study.db"
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise missing
        try:
            file = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise missing from None
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}") from None
        return file.st_dev, file.st_ino

    def _opened(self, name: str) -> Study:
        try:
            if self._database is None:
                return open_study(name, self._folder)
            return study_in(self._storage(), name, self._folder, self._database)
        except InputError as error:
            raise NotFound(str(error)) from None

    def _storage(self) -> RDBStorage:
        assert self._database is not None
        with self._lock:
            if self._shared is None:
                self._shared = open_storage(self._database, create=True)
            return self._shared
