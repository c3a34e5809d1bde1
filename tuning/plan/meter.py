"""Measures the costs of a study's points on this machine, in as many concurrent processes as trials will run."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np

from proxytune.datasets.parallel import process_map
from proxytune.tuning.plan.costs import Cost, Point, known_cost
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.trial.data import prepare_task

P = ParamSpec("P")
R = TypeVar("R")
SECONDS = 0.5
"""Duration of the timed training, and of the timed evaluation, at each point; at least four batches each."""


@dataclass(frozen=True)
class Measured:
    """Costs of the points, in their order.

    process_start: seconds until a process was ready to train the first of them. first_prediction: seconds of a process's
    first prediction of costs, made at its first evaluation; it takes longer than the later ones.
    """

    costs: list[Cost]
    process_start: float
    first_prediction: float


def measure(spec: StudySpec, points: Sequence[Point], slots: int) -> Measured:
    """Measure the points on real batches of the task; figures are means over the processes.

    Each process uses `resources.cpu` cores, so there are at most as many processes as this machine has cores for.

    Raises:
        DataError: the task's data is missing or damaged, or a process was killed.
        Also the errors of `measure_efficiency`.
    """
    for point in points:
        prepare_task(spec.trial(point.params).task)
    trials = [spec.trial(point.params).model_dump_json() for point in points]
    here = max(1, min(slots, len(os.sched_getaffinity(0)) // spec.resources.cpu))
    began = time.time()
    found = list(process_map(_measure, [(began, trials)] * here))
    seconds = np.mean([figures for *_, figures in found], axis=0)
    if (
        len(points) > 1
    ):  # neither the first prediction of costs nor one that repeats a configuration is typical
        seconds[:, 2] = np.median(seconds[1:, 2])
    costs = [known_cost(spec, point, *row) for point, row in zip(points, seconds.tolist(), strict=True)]
    start, prediction = (float(np.mean([one[index] for one in found])) for index in (0, 1))
    return Measured(costs, start, prediction)


def _measure(work: tuple[float, list[str]]) -> tuple[float, float, list[tuple[float, float, float]]]:
    """Seconds until the first trial was built, and of its first prediction of costs; then for each trial the seconds of
    a step, an evaluation and a start.
    """
    from proxytune.tuning.trial.efficiency import measure_efficiency, typical_batches
    from proxytune.tuning.trial.profile import predicted_profile, trial_device
    from proxytune.tuning.trial.trial_run import TrialRun

    asked, trials = work
    start = first_prediction = 0.0
    figures: list[tuple[float, float, float]] = []
    for text in trials:
        spec = TrialSpec.model_validate_json(text)
        built, run = _timed(TrialRun, spec, None)
        if not figures:  # the first trial loads what all trials share; time it again
            start = time.time() - asked
            built, run = _timed(TrialRun, spec, None)
        predicted, _ = _timed(predicted_profile, spec, trial_device(spec))
        if not figures:
            first_prediction, predicted = predicted, 0.0
        speeds = measure_efficiency(spec, seconds=SECONDS)
        size = int(spec.training["batch_size"])
        validation = prepare_task(spec.task).validation
        batch = typical_batches(validation, min(size, len(validation)))[-1]
        run.trainer.evaluate([batch])
        diagnosed, _ = _timed(run.trainer.evaluate, [batch])
        diagnosed -= _timed(run.trainer.predict, batch)[0]
        evaluation = len(validation) / speeds["inference_sequences_per_second"] + max(0.0, diagnosed)
        figures.append((size / speeds["train_sequences_per_second"], evaluation, built + predicted))
    return start, first_prediction, figures


def _timed(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[float, R]:
    """The seconds that the call takes, and its result."""
    began = time.perf_counter()
    result = work(*args, **kwargs)
    return time.perf_counter() - began, result
