"""Canary tests of the private Optuna interfaces that `store/optuna_private.py` uses."""

import inspect

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from proxytune.tuning.store.optuna_private import StudyView, TrialStorage, running_trial


def test_samplers_still_read_trials_through_get_trials() -> None:
    known = list(inspect.signature(optuna.Study._get_trials).parameters)
    overridden = list(inspect.signature(StudyView._get_trials).parameters)
    assert known == overridden, f"this Optuna's Study._get_trials takes {known}: change StudyView"
    study = optuna.create_study()
    distribution = optuna.distributions.FloatDistribution(0, 1)
    earlier = optuna.trial.create_trial(value=1.0, params={"x": 0.5}, distributions={"x": distribution})
    view = StudyView(study, [earlier])
    sampler = optuna.samplers.TPESampler(n_startup_trials=1, seed=0)
    space = sampler.infer_relative_search_space(view, earlier)  # type: ignore[arg-type]
    sampler.sample_independent(view, earlier, "x", distribution)  # type: ignore[arg-type]
    assert view._get_trials(states=(TrialState.COMPLETE,)) == [earlier], (
        "StudyView does not return the earlier trial"
    )
    assert isinstance(space, dict)


def test_running_trial_can_still_be_reopened() -> None:
    study = optuna.create_study()
    asked = study.ask()
    reopened = running_trial(study, asked._trial_id)
    assert reopened.number == asked.number, "this Optuna's Trial(study, trial_id) opens another trial"
    study.tell(reopened, 1.0)
    assert study.trials[asked.number].state == TrialState.COMPLETE


def test_storage_still_reads_all_trials_in_get_trials() -> None:
    known = list(inspect.signature(RDBStorage._get_trials).parameters)
    overridden = list(inspect.signature(TrialStorage._get_trials).parameters)
    assert known == overridden, f"this Optuna's RDBStorage._get_trials takes {known}: change TrialStorage"
    storage = TrialStorage("sqlite://")
    study = optuna.create_study(storage=storage)
    study.add_trial(optuna.trial.create_trial(value=1.0))
    statements: list[str] = []
    sa.event.listen(storage.engine, "before_cursor_execute", lambda *event: statements.append(event[2]))
    assert len(optuna.load_study(study_name=study.study_name, storage=storage).trials) == 1
    read = [statement for statement in statements if "JOIN trials" in statement]
    assert len(read) == 5, "this Optuna reads all trials in another method: change TrialStorage"
