"""Begin a study: create it, open the stored one, or say what a start would find."""

import json
import os
import warnings

import optuna
from optuna.exceptions import ExperimentalWarning

from proxytune.tuning.errors import (
    InputError,
    StorageError,
)
from proxytune.tuning.search.warm_start import WarmStart, take
from proxytune.tuning.spec.same_spec import check_same
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.store.attributes import BUDGET, END, ENQUEUED_BY, PAUSE, SECONDS, STOP, WARM_START
from proxytune.tuning.store.database import database_url, holds_studies, open_storage
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.study import SPEC, Study, open_study, study_in


def read_warm_start(spec: StudySpec) -> WarmStart | None:
    """What a new study of this spec takes from its `search.warm_start`, if it names one.

    Raises:
        InputError: there is no such study, or it is this one.
        StorageError: its storage does not answer.
    """
    wish = spec.search.warm_start
    if wish is None:
        return None
    storage, database = wish.storage or spec.storage, wish.database or spec.database
    if wish.study == spec.name and (storage.absolute(), database) == (spec.storage.absolute(), spec.database):
        raise InputError(f"search.warm_start.study: {wish.study} is this study itself")
    try:
        source = open_study(wish.study, storage, database)
    except InputError as error:
        raise InputError(f"search.warm_start.study: {error}") from None
    return take(spec, source.spec, source.trials(), END)


def begin_study(spec: StudySpec) -> Study:
    """Create the study, or open the one of the same name if its spec is the same or has a larger budget.

    Raises:
        OtherSpecError: the stored spec differs, and where.
        StorageError: the storage cannot be written.
    """
    try:
        spec.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{spec.folder}: {error.strerror} (as user {os.getuid()})") from None
    storage = open_storage(database_url(spec.folder, spec.database), create=True)
    with storage_errors():
        study = optuna.create_study(
            study_name=spec.name,
            storage=storage,
            sampler=optuna.samplers.RandomSampler(),  # never asked: the controller sets one for each trial
            directions=list(spec.search.objectives.values()),
            load_if_exists=True,
        )
        stored = study.user_attrs.get(SPEC)
        if study.metric_names is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                study.set_metric_names(list(spec.search.objectives))  # what optuna-dashboard calls the values
        if stored is None:
            earlier = read_warm_start(spec)
            for params in spec.search.enqueue:
                study.enqueue_trial(dict(params))
            if earlier is not None:
                study.set_user_attr(WARM_START, earlier.to_json())
                for one in earlier.first:
                    who = f"trial {one['trial']} of {earlier.study}"
                    study.enqueue_trial(one["params"], {ENQUEUED_BY: who}, skip_if_exists=True)
            study.set_user_attr(BUDGET, spec.search.trials)
        else:
            # keys newer than the stored spec: their defaults
            check_same(parse_study(json.loads(stored), where=f"study {spec.name}"), spec)
            budget = max(spec.search.trials, int(study.user_attrs[BUDGET]))
            study.set_user_attr(BUDGET, budget)
        study.set_user_attr(SPEC, spec.model_dump_json())
        study.set_user_attr(STOP, None)
        study.set_user_attr(PAUSE, None)
    return Study(spec, storage, study)


def check_study(spec: StudySpec) -> list[str]:
    """What a start of this study would find, for people; nothing is written.

    Raises:
        InputError: its budget is spent, or what `search.warm_start` names is not there.
        OtherSpecError: a study of that name exists with another spec.
        StorageError: the storage does not answer.
    """
    url = database_url(spec.folder, spec.database)
    if not holds_studies(url):
        return _warm_start_lines(read_warm_start(spec))
    storage = open_storage(url, create=False)
    with storage_errors():
        names = optuna.get_all_study_names(storage)
    if spec.name not in names:
        return _warm_start_lines(read_warm_start(spec))
    study = study_in(storage, spec.name, spec.storage, spec.database)
    check_same(study.spec, spec)
    trials, budget = study.trials(), max(study.budget, spec.search.trials)
    ended = [trial for trial in trials if END in trial.user_attrs]
    steps = sum(trial.user_attrs[END]["step"] for trial in ended)
    seconds = float(study.optuna.user_attrs.get(SECONDS, 0.0))
    for key, spent, limit in (
        ("trials", len(ended), budget),
        ("max_steps", steps, spec.search.max_steps),
        ("max_seconds", seconds, spec.search.max_seconds),
    ):
        if limit is not None and spent >= limit:
            raise InputError(
                f"search.{key}: the budget of study {spec.name} is spent ({spent:g} of {limit:g}); raise it to go on, "
                "or give the study another name"
            )
    stored = study.optuna.user_attrs.get(WARM_START)
    lines = _warm_start_lines(WarmStart.from_json(stored) if stored else None)
    return [f"study {spec.name} exists and goes on: {len(ended)} of {budget} trials have ended", *lines]


def _warm_start_lines(earlier: WarmStart | None) -> list[str]:
    return [] if earlier is None else [earlier.summary(), *earlier.notes]
