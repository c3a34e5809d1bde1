"""Uses of Optuna's private interfaces. Each class or function names the public interface that is missing.

`tests/tuning/store/test_optuna_private.py` fails in one sentence when a new version of Optuna changes one of these.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial

_distribution = cache(json_to_distribution)  # trials share equal ones


class StudyView:
    """A study whose list of trials begins with those of an earlier study; everything else is delegated.

    Missing: a way to give a sampler the trials of another study. `Study.add_trial` would number them in this study.
    """

    def __init__(self, study: optuna.Study, earlier: Sequence[FrozenTrial]) -> None:
        self._own = study
        self._earlier = earlier

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)

    def _get_trials(
        self, deepcopy: bool = True, states: Any = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        earlier = [trial for trial in self._earlier if states is None or trial.state in states]
        return earlier + self._own._get_trials(deepcopy, states, use_cache)


def running_trial(study: optuna.Study, trial_id: int) -> optuna.Trial:
    """A RUNNING trial that was created by another process.

    Missing: `Study.ask` returns a Trial only to the calling process, and the constructor of `Trial` is internal.
    """
    return optuna.Trial(study, trial_id)


class TrialStorage(RDBStorage):
    """A relational storage that reads all trials of a study with one query per table.

    Missing: a fast way to read many trials. Optuna creates an object for every row and parses the distribution of every
    parameter twice, which takes seconds of CPU time for 10,000 trials (figures in ARCHITECTURE.md).
    """

    def _get_trials(
        self, study_id: int, states: Any, included_trial_ids: set[int], trial_id_greater_than: int
    ) -> list[FrozenTrial]:
        if states is None and trial_id_greater_than < 0:
            with self.engine.connect() as connection:
                found = _all_trials(connection, study_id)
            if found:
                return found
        return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)


def _all_trials(connection: sa.Connection, study_id: int) -> list[FrozenTrial]:
    """The trials of a study by id. As in Optuna, the rows of `trials` are read before those of the other tables."""
    table = models.TrialModel.__table__
    of_study = sa.select(table).where(table.c.study_id == study_id).order_by(table.c.trial_id)
    trials = {row.trial_id: _bare_trial(row) for row in connection.execute(of_study)}

    def each(model: Any, *columns: str) -> Iterator[tuple[FrozenTrial, Any]]:
        """(trial, row) for each row of the study, in the order of writing."""
        rows = model.__table__
        of_trials = sa.select(rows.c.trial_id, *(rows.c[name] for name in columns)).join(table)
        ordered = of_trials.where(table.c.study_id == study_id).order_by(*rows.primary_key)
        for row in connection.execute(ordered):
            if row.trial_id in trials:  # skips a trial that another process has just added
                yield trials[row.trial_id], row

    for trial, row in each(models.TrialParamModel, "param_name", "param_value", "distribution_json"):
        kind = trial.distributions[row.param_name] = _distribution(row.distribution_json)
        trial.params[row.param_name] = kind.to_external_repr(row.param_value)
    for trial, row in each(models.TrialUserAttributeModel, "key", "value_json"):
        trial.user_attrs[row.key] = json.loads(row.value_json)
    for trial, row in each(models.TrialSystemAttributeModel, "key", "value_json"):
        trial.system_attrs[row.key] = json.loads(row.value_json)
    values: defaultdict[int, dict[int, float]] = defaultdict(dict)
    value_of = models.TrialValueModel.stored_repr_to_value
    for trial, row in each(models.TrialValueModel, "objective", "value", "value_type"):
        values[trial._trial_id][row.objective] = value_of(row.value, row.value_type)
    for key, by_objective in values.items():
        trials[key].values = [by_objective[objective] for objective in sorted(by_objective)]
    report_of = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    columns = "step", "intermediate_value", "intermediate_value_type"
    for trial, row in each(models.TrialIntermediateValueModel, *columns):
        trial.intermediate_values[row.step] = report_of(row.intermediate_value, row.intermediate_value_type)
    return list(trials.values())


def _bare_trial(row: Any) -> FrozenTrial:
    """A trial from its row in `trials`. Times are stored in UTC and returned in local time, both without a zone."""

    def local(moment: datetime | None) -> datetime | None:
        return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)

    return FrozenTrial(
        number=row.number,
        state=row.state,
        value=None,
        datetime_start=local(row.datetime_start),
        datetime_complete=local(row.datetime_complete),
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=row.trial_id,
    )
