"""Studies of a fixed list of configurations without selection: all are tested in one opening of the test split."""

import functools
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.confirm.opening import Say, checksum, open_once
from proxytune.tuning.confirm.test_split import accuracies_on_test
from proxytune.tuning.errors import InputError
from proxytune.tuning.store.lease import Lease
from proxytune.tuning.store.study import Study


def is_fixed_list(study: Study) -> bool:
    """Whether the study trains a fixed list of configurations: a grid, or all trials enqueued."""
    search = study.spec.search
    return search.sampler.name == "grid" or len(search.enqueue) >= study.budget


def evaluate_on_test(study: Study, *, who: str, again: bool, say: Say) -> None:
    """Evaluate every complete trial of a fixed list on the test split, on this machine, and store the result.

    All trials count as one opening, because no trial is chosen by its test result. The same trials are not tested twice.

    Raises:
        InputError: the study is a search or has trials to run, or the split was opened before and `again` is false.
        HeldError: the study is being run.
        DataError: the data is missing or damaged.
        StorageError: a checkpoint is missing or damaged, or the storage cannot be reached.
    """
    if not is_fixed_list(study):
        raise InputError(
            f"study {study.name} is a search: a confirmation tests its winner, and no other trial may be tested"
        )
    trials = study.trials()
    left = max(study.budget - sum(trial.state.is_finished() for trial in trials), 0)
    if left:
        raise InputError(f"study {study.name} has {left} trials to run before its test split is opened")
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    lease = Lease(study.storage, study.name)
    lease.acquire()
    try:
        _evaluate(study, complete, who=who, again=again, say=say)
    finally:
        lease.release()


def _evaluate(study: Study, trials: Sequence[FrozenTrial], *, who: str, again: bool, say: Say) -> None:
    checkpoints = [study.checkpoints(trial) for trial in trials]
    subject = {
        "trials": [trial.number for trial in trials],
        "models": [checksum(stored) for stored in checkpoints],
    }
    specs = [study.spec.trial(trial.params) for trial in trials]
    models = list(zip(specs, checkpoints, strict=True))
    evaluate = functools.partial(accuracies_on_test, models, log_folder=study.folder)
    open_once(study, subject, f"all {len(trials)} trials", evaluate, who=who, again=again, say=say)
