"""The user attributes of trials and studies in Optuna's storage, and the fields of a stored trial."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Protocol

# Attributes of a trial.
DATA = "data"  # of a trial: fingerprint of its training data; of the study: data_facts of run/provenance.py
END = "end"  # {"outcome", "reason", "step", "metrics"}, written before the trial ends in Optuna
ATTEMPT = "attempt"  # number of starts, if more than one
ENQUEUED_BY = "enqueued_by"  # the user who enqueued it
WHOLE_GPU = "whole_gpu"  # it ran out of memory in a share of a GPU
RUNG = "rung:"  # followed by the rung's step: {"values", "violation"}, minimised
CANDIDATE = "candidate"  # of a retraining: number of the repeated trial in the confirmed study
WITH_SEED = "seed"  # of a retraining: its fresh seed

# Attributes of the study.
STUDY_ID = "id"  # set first and never changed; identifies the study in its folder and in checkpoints
BUDGET = "trials"  # the number of trials; changed only by the study's driver
GPU_WORST = "gpu_worst"  # the highest ratio of used to predicted GPU memory
WARM_START = "warm_start"  # what was taken from an earlier study (search/warm_start.py)
JOURNAL_ID = "journal"  # id of its journal
SECONDS = "seconds"  # run time, summed over all drivers
SECONDS_LEFT = "seconds_left"  # estimated by the driver (plan/time_left.py); null: unknown
WAITS = "waits"  # the other studies that occupy slots it waits for, as last recorded by its driver
ENOUGH = "enough"  # {"reason", "budget"}: why the study ended before that budget was spent (search/enough.py)
CURVE_MODEL = (
    "curve_model"  # [number of observations, hyperparameters] of the last fit (search/curve_sampler.py)
)


class StoredTrial(Protocol):
    """The fields read from a trial: Optuna's FrozenTrial, or a TableTrial with fields of the same names."""

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
    """The values of a trial at each rung it reached, by the rung's step: {"values", "violation"}."""
    return {
        int(key.removeprefix(RUNG)): entry for key, entry in trial.user_attrs.items() if key.startswith(RUNG)
    }


def reported_steps(trial: StoredTrial) -> list[int]:
    """The steps reported by a trial, as far as they are stored."""
    return [*trial.intermediate_values, *rung_entries(trial)]
