"""What is read of a trial in Optuna's storage, and the user attributes of trials and studies with what they say."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Protocol

# Of a trial.
DATA = "data"  # of a trial, the fingerprint of the data it trains on; of the study, run/provenance.py's data_facts
END = "end"  # {"outcome", "reason", "step", "metrics"}, written before it is told
ATTEMPT = "attempt"  # how often it was begun, if more than once
ENQUEUED_BY = "enqueued_by"  # who enqueued it, if somebody did
WHOLE_GPU = "whole_gpu"  # it ran out of memory in a share of a GPU
RUNG = "rung:"  # followed by the rung's step: {"values", "violation"}, minimised
CANDIDATE = "candidate"  # of a retraining: the trial of the confirmed study that it repeats
WITH_SEED = "seed"  # of a retraining: its fresh seed

# Of the study.
STUDY_ID = "id"  # set first and never changed; names the study in its folder and in checkpoints
BUDGET = "trials"  # the number of trials; changed by the study's driver alone
GPU_WORST = "gpu_worst"  # the highest ratio of taken to predicted GPU memory
WARM_START = "warm_start"  # what it took from an earlier one (search/warm_start.py)
JOURNAL_ID = "journal"  # id of its journal
SECONDS = "seconds"  # for how long drivers have run it
SECONDS_LEFT = "seconds_left"  # until its end, as its driver estimates (plan/time_left.py); null: not known
WAITS = "waits"  # which other studies keep slots of the cluster from it, as its driver last told
ENOUGH = "enough"  # {"reason", "budget"}: why the study ended before that budget was spent (search/enough.py)
CURVE_MODEL = (
    "curve_model"  # [number of observations, hyperparameters] of its last fit (search/curve_sampler.py)
)


class StoredTrial(Protocol):
    """What is read of a trial: of Optuna's FrozenTrial, or of a TableTrial with fields of the same names."""

    @property
    def number(self) -> int: ...
    @property
    def state(self) -> Enum: ...
    @property
    def values(self) -> Sequence[float] | None: ...
    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def user_attrs(self) -> Mapping[str, Any]: ...
    @property
    def intermediate_values(self) -> Mapping[int, float]: ...
    @property
    def last_step(self) -> int | None: ...
    @property
    def datetime_start(self) -> datetime | None: ...


def rung_entries(trial: StoredTrial) -> dict[int, dict[str, Any]]:
    """What a trial had at each rung it crossed, by the rung's step: {"values", "violation"}."""
    return {
        int(key.removeprefix(RUNG)): entry for key, entry in trial.user_attrs.items() if key.startswith(RUNG)
    }


def reported_steps(trial: StoredTrial) -> list[int]:
    """The steps that a trial has reported, as far as the storage knows."""
    return [*trial.intermediate_values, *rung_entries(trial)]
