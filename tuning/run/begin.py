"""Opens a study for a run: acquires its lease, then creates the study or opens the stored study."""

import json
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage

from proxytune.tuning.errors import InputError
from proxytune.tuning.run.look import wanted_budget, without_effect
from proxytune.tuning.run.provenance import refuse_other_data
from proxytune.tuning.search.warm_start import fill_study, read_warm_start
from proxytune.tuning.spec.same_spec import check_same
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.store.attributes import BUDGET, DATA, STUDY_ID
from proxytune.tuning.store.binding import bind_folder, check_binding, make_folder
from proxytune.tuning.store.database import open_storage
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.lease import Lease
from proxytune.tuning.store.request import Kind
from proxytune.tuning.store.stored_study import SPEC, database_url
from proxytune.tuning.store.study import Study


@dataclass(frozen=True)
class HeldStudy:
    """A study whose lease this process holds, and messages for the user about the start."""

    study: Study
    lease: Lease
    notes: tuple[str, ...]


@contextmanager
def hold_study(
    spec: StudySpec, *, data: Mapping[str, Any] | None = None, age: float = 0.0
) -> Iterator[HeldStudy]:
    """Acquire the study's lease, create or open the study, and release the lease at exit.

    Nothing of the study is written before the lease is held, so a refused run changes nothing.

    Args:
        data: the result of `data_facts` for the prepared task; None: not known, not compared.
        age: seconds since the run was started; earlier stop and pause requests are ignored.

    Raises:
        HeldError: another driver holds the study.
        InputError: the folder and the database do not belong together, or the data differs from that of earlier runs.
        OtherSpecError: the stored spec differs; the message names the keys.
        StorageError: the storage cannot be written.
    """
    make_folder(spec.folder)
    storage = open_storage(database_url(spec.folder, spec.database), create=True)
    with ExitStack() as stack:
        lease = Lease(storage, spec.name)
        stack.callback(lease.release)
        lease.acquire()
        with storage_errors():
            study, notes = _open_or_create(spec, storage)
            if data:
                _check_data(study, data)
        bind_folder(spec.folder, study.id)
        superseded = study.requests.begin(age)
        notes += [
            f"{request.kind} by {request.who} was requested before this start" for request in superseded
        ]
        yield HeldStudy(study, lease, tuple(notes))


def begin_study(spec: StudySpec) -> Study:
    """Create or open the study as `hold_study` does, and release its lease.

    Raises:
        The errors of `hold_study`.
    """
    with hold_study(spec) as held:
        return held.study


def _open_or_create(spec: StudySpec, storage: RDBStorage) -> tuple[Study, list[str]]:
    try:
        key = storage.get_study_id_from_name(spec.name)
    except KeyError:
        check_binding(spec, None, 0)
        return _create(spec, storage), []
    attributes = storage.get_study_user_attrs(key)
    if SPEC in attributes:
        return _open(spec, storage)
    if STUDY_ID not in attributes:
        raise InputError(f"study {spec.name} was not created by proxytune; give the study another name")
    storage.delete_study(key)  # its creator was killed before the study was complete
    return _create(spec, storage), []


def _create(spec: StudySpec, storage: RDBStorage) -> Study:
    """Create a study. Its spec is stored last: a study without a spec is incomplete."""
    earlier = read_warm_start(spec)
    study = optuna.create_study(
        study_name=spec.name,
        storage=storage,
        sampler=optuna.samplers.RandomSampler(),  # unused: the controller sets a sampler for each trial
        directions=list(spec.search.objectives.values()),
    )
    study.set_user_attr(STUDY_ID, uuid.uuid4().hex)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(spec.search.objectives))  # shown by optuna-dashboard
    fill_study(study, spec, earlier)
    # With spaces, so that pages that show attributes (optuna-dashboard) can wrap the line.
    study.set_user_attr(SPEC, json.dumps(spec.model_dump(mode="json")))
    return Study(spec, storage, study)


def _open(spec: StudySpec, storage: RDBStorage) -> tuple[Study, list[str]]:
    """Open the stored study; also return a message for each change of the spec without effect."""
    study = optuna.load_study(study_name=spec.name, storage=storage, sampler=optuna.samplers.RandomSampler())
    attributes = study.user_attrs
    check_binding(spec, attributes.get(STUDY_ID), len(study.get_trials(deepcopy=False)))
    stored = parse_study(
        json.loads(attributes[SPEC]), where=f"study {spec.name}"
    )  # newer keys: their defaults
    check_same(stored, spec)
    if STUDY_ID not in attributes:  # created by version 0.1.0
        study.set_user_attr(STUDY_ID, uuid.uuid4().hex)
    opened = Study(spec, storage, study)
    extensions = opened.requests.pending(Kind.EXTEND)  # read once: a later request stays pending
    budget = int(extensions[-1].value["trials"] if extensions else attributes[BUDGET])
    wanted = wanted_budget(stored, spec, budget)
    if wanted != attributes[BUDGET]:
        study.set_user_attr(BUDGET, wanted)
    opened.requests.handled(extensions)
    # With spaces, so that pages that show attributes (optuna-dashboard) can wrap the line.
    study.set_user_attr(SPEC, json.dumps(spec.model_dump(mode="json")))
    return opened, without_effect(stored, spec, wanted)


def _check_data(study: Study, data: Mapping[str, Any]) -> None:
    """Store the facts of the study's data at its first start; refuse different data later.

    Raises:
        InputError: the data differs from the stored facts.
    """
    if not study.data:
        study.optuna.set_user_attr(DATA, dict(data))
    else:
        refuse_other_data(study, data)
