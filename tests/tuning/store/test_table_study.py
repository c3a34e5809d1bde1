"""The reader of Optuna's tables returns what Optuna returns, for generated studies and in both databases."""

import math
import os
import shutil
import sqlite3
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store import steering
from proxytune.tuning.store.attributes import SECONDS
from proxytune.tuning.store.database import open_storage
from proxytune.tuning.store.lease import Lease
from proxytune.tuning.store.listing import list_studies
from proxytune.tuning.store.request import Kind
from proxytune.tuning.store.study import Study, all_studies, open_study
from proxytune.tuning.store.summary import summary, trial_row
from proxytune.tuning.store.table_study import SCHEMA_VERSION, TableStudy, TableTrial, read_study, read_tables

SPACE: dict[str, tuple[BaseDistribution, st.SearchStrategy[Any]]] = {
    "choice": (
        CategoricalDistribution([None, True, "a", 2, 0.5]),
        st.sampled_from([None, True, "a", 2, 0.5]),
    ),
    "whole": (IntDistribution(1, 64, log=True), st.integers(1, 64)),
    "stepped": (IntDistribution(0, 30, step=3), st.integers(0, 10).map(lambda steps: 3 * steps)),
    "rate": (FloatDistribution(1e-5, 1.0, log=True), st.floats(1e-5, 1.0)),
    "quarter": (FloatDistribution(0, 1, step=0.25), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
}
ATTRIBUTES = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8),
    st.none() | st.booleans() | st.integers(-9, 9) | st.lists(st.floats(allow_nan=False), max_size=2),
    max_size=3,
)
NUMBERS = st.floats(allow_nan=False)  # Optuna marks a trial with a NaN value as failed


@st.composite
def generated_trials(draw: st.DrawFn, objectives: int) -> FrozenTrial:
    state = draw(st.sampled_from(TrialState))
    params = {key: draw(values) for key, (_, values) in SPACE.items() if draw(st.booleans())}
    has_values = state == TrialState.COMPLETE or (state == TrialState.PRUNED and draw(st.booleans()))
    return create_trial(
        state=state,
        values=[draw(NUMBERS) for _ in range(objectives)] if has_values else None,
        params=params,
        distributions={key: SPACE[key][0] for key in params},
        user_attrs=draw(ATTRIBUTES),
        system_attrs=draw(ATTRIBUTES),
        intermediate_values=draw(st.dictionaries(st.integers(0, 99), st.floats(), max_size=4)),
    )


def assert_equal(read: TableTrial, known: FrozenTrial) -> None:
    for name in ("number", "state", "values", "params", "user_attrs", "datetime_start", "datetime_complete"):
        assert getattr(read, name) == getattr(known, name), name
    assert list(read.params) == list(known.params), "in the order of the space"
    assert [type(value) for value in read.params.values()] == list(map(type, known.params.values()))
    assert read.state.name == known.state.name
    assert read.last_step == known.last_step
    assert read.intermediate_values.keys() == known.intermediate_values.keys()
    for step, value in known.intermediate_values.items():
        stored = read.intermediate_values[step]
        assert stored == value or (math.isnan(stored) and math.isnan(value))


def by_optuna(storage: RDBStorage, name: str) -> list[FrozenTrial]:
    """The trials as read by Optuna's storage."""
    return RDBStorage._get_trials(storage, storage.get_study_id_from_name(name), None, set(), -1)


def assert_storage_reads_as_optuna(storage: RDBStorage, name: str) -> None:
    """The product's storage reads all trials of a study as Optuna's storage does."""

    def facts(trial: FrozenTrial) -> dict[str, Any]:
        reports = {step: repr(value) for step, value in trial.intermediate_values.items()}  # NaN
        return trial.__dict__ | {"intermediate_values": reports}

    trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
    assert [facts(trial) for trial in trials] == [facts(trial) for trial in by_optuna(storage, name)]
    for trial in trials:
        assert list(trial.params) == list(trial.distributions)


@pytest.fixture(scope="module")
def shared_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RDBStorage]:
    """One storage for all generated studies: creating the tables takes longer than an example."""
    storage = open_storage(f"sqlite:///{tmp_path_factory.mktemp('shared') / 'studies.db'}", create=True)
    yield storage
    storage.engine.dispose()


@settings(max_examples=25)
@given(data=st.data())
def test_generated_studies_are_read_as_by_optuna(shared_storage: RDBStorage, data: st.DataObject) -> None:
    objectives = data.draw(st.integers(1, 3))
    name = f"müller's {uuid.uuid4().hex}"
    study = optuna.create_study(
        study_name=name, storage=shared_storage, directions=["maximize", "minimize", "minimize"][:objectives]
    )
    study.set_user_attr("spec", "{}")
    for key, value in data.draw(ATTRIBUTES).items():
        study.set_user_attr(key, value)
    study.add_trials(data.draw(st.lists(generated_trials(objectives), max_size=4)))

    found = read_tables(shared_storage.url, name)
    assert found is not None
    assert found.keys() == {name}
    known = optuna.load_study(study_name=name, storage=shared_storage)
    assert found[name].attributes == known.user_attrs
    for read, trial in zip(found[name].trials, by_optuna(shared_storage, name), strict=True):
        assert_equal(read, trial)
    assert_storage_reads_as_optuna(shared_storage, name)
    names = optuna.get_all_study_names(shared_storage)
    assert (read_tables(shared_storage.url) or {}).keys() == set(names)


def assert_same_answers(study: Study) -> None:
    read = read_study(study.name, study.spec.storage, study.spec.database)
    assert isinstance(read, TableStudy)
    assert summary(read) == summary(study)
    assert [trial_row(trial, "val_accuracy") for trial in read.trials()] == [
        trial_row(trial, "val_accuracy") for trial in study.trials()
    ]
    for name in ("spec", "id", "budget", "data", "tracking_uri", "attributes"):
        assert getattr(read, name) == getattr(study, name), name
    assert read.driver() == study.driver()
    assert read.requests.pending() == study.requests.pending()


def steer(study: Study) -> None:
    """Steer the study and compare the readers after each change: a queued trial, a driver, a budget, a pause."""
    assert_same_answers(study)
    steering.enqueue(study, {"model.num_proxies": 8})
    steering.extend(study, 9)
    steering.pause(study, on=True)
    assert_same_answers(study)
    reader = read_study(study.name, study.spec.storage, study.spec.database)
    steering.pause(reader, on=True)
    steering.extend(reader, 9)
    first, *others = [replace(request, id=0, posted=None) for request in study.requests.pending()]
    assert others == [
        replace(first, kind=Kind.PAUSE, value={}),
        replace(first, kind=Kind.PAUSE, value={}),
        first,
    ]
    lease = Lease(study.storage, study.name)
    lease.acquire()
    try:
        study.requests.handled(study.requests.pending())
        read = read_study(study.name, study.spec.storage, study.spec.database)
        assert summary(read)["paused_by"] == steering.terminal_user()
        assert f"process {os.getpid()}" in str(read.driver())
        assert_same_answers(study)
    finally:
        lease.release()
    assert_same_answers(study)


def test_study_and_its_steering_are_read_as_by_optuna(
    make_spec: Callable[..., StudySpec],
) -> None:
    steer(begin_study(make_spec()))


def test_studies_in_postgresql_are_read_as_by_optuna(
    postgres: Any, make_spec: Callable[..., StudySpec]
) -> None:
    spec = make_spec(f"database={postgres.uri}")
    study = begin_study(spec)
    other = optuna.create_study(study_name="another program's", storage=study.storage)
    other.set_user_attr("x", 1)
    for state in TrialState:
        values = {"value": 0.5} if state == TrialState.COMPLETE else {}
        params, kinds = {"choice": None, "whole": 3}, {key: SPACE[key][0] for key in ("choice", "whole")}
        other.add_trial(
            create_trial(
                state=state,
                params=params,
                distributions=kinds,
                intermediate_values={1: math.nan, 2: -math.inf},
                **values,
            )
        )
    assert_storage_reads_as_optuna(study.storage, "another program's")
    steer(study)
    found = read_tables(postgres.uri)
    assert found is not None
    for read, trial in zip(found[study.name].trials, study.trials(), strict=True):
        assert_equal(read, trial)
    assert found["another program's"].trials == [], "only the attributes of other programs' studies are read"
    rows = list_studies(spec.storage, postgres.uri)
    assert [row["study"] for row in rows] == ["small"]
    (listed,) = all_studies(spec.storage, postgres.uri)
    assert listed.name == "small"
    for opened in (study, listed):
        opened.storage.engine.dispose()


def test_damaged_study_does_not_hide_the_others(make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec()
    begin_study(spec)
    (spec.storage / "broken").mkdir()
    (spec.storage / "broken" / "study.db").write_bytes(b"not a database" * 100)
    broken, small = list_studies(spec.storage, None)
    assert "unreadable: " in broken["state"]
    assert (small["study"], small["state"]) == ("small", "interrupted")


def test_study_that_ended_before_its_budget_is_finished(make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec("search.max_seconds=5")
    study = begin_study(spec)
    assert [row["state"] for row in list_studies(spec.storage, None)] == ["interrupted"]
    study.optuna.set_user_attr(SECONDS, 5.0)
    assert [row["state"] for row in list_studies(spec.storage, None)] == ["finished"]


def test_missing_postgresql_driver_is_reported_in_one_line(
    make_spec: Callable[..., StudySpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as if the extra were not installed
    with pytest.raises(StorageError, match="psycopg") as caught:
        list_studies(make_spec().storage, "postgresql+psycopg://localhost:1/studies")
    assert len(str(caught.value).splitlines()) == 1


def test_request_that_cannot_be_stored_raises_storage_error(make_spec: Callable[..., StudySpec]) -> None:
    study = begin_study(make_spec())
    read = read_study(study.name, study.spec.storage)
    with sqlite3.connect(study.folder / "study.db") as file:
        file.execute("ALTER TABLE proxytune_request RENAME TO renamed")
    with pytest.raises(StorageError, match="storage failed: no such table"):
        steering.pause(read, on=True)


def test_reading_changes_no_file(make_spec: Callable[..., StudySpec]) -> None:
    study = begin_study(make_spec())
    study.storage.engine.dispose()
    before = {path.name: path.read_bytes() for path in study.folder.iterdir() if path.is_file()}
    read_study(study.name, study.spec.storage)
    assert {path.name: path.read_bytes() for path in study.folder.iterdir() if path.is_file()} == before


def test_databases_unknown_to_the_reader_are_read_by_optuna(
    make_spec: Callable[..., StudySpec], tmp_path: Path
) -> None:
    study = begin_study(make_spec())
    url = f"sqlite:///{study.folder / 'study.db'}"
    assert read_tables(url) is not None, f"this Optuna's tables are not those of schema {SCHEMA_VERSION}"
    assert read_tables(f"{url}?timeout=3") is None
    assert read_tables("mysql://host/database") is None
    assert read_tables(f"sqlite:///{tmp_path / 'missing.db'}") is None
    assert not (tmp_path / "missing.db").exists()

    newer = study.spec.storage / "newer"
    shutil.copytree(study.folder, newer)
    with sqlite3.connect(newer / "study.db") as file:
        file.execute("UPDATE version_info SET schema_version = ?", (SCHEMA_VERSION + 1,))
    assert read_tables(f"sqlite:///{newer / 'study.db'}") is None
    (study.spec.storage / "garbage").mkdir()
    (study.spec.storage / "garbage" / "study.db").write_bytes(b"not a database" * 99)
    with pytest.raises(StorageError, match="not a database"):
        read_study("garbage", study.spec.storage)
    with pytest.raises(InputError, match="no study other"):
        read_study("other", study.spec.storage)
    assert open_study(study.name, study.spec.storage).trials() == study.trials()
