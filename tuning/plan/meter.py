"""Measures the costs of a study's points on this machine, in as many concurrent processes as trials will run."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from proxytune.datasets.parallel import process_map
from proxytune.tuning.plan.costs import Cost, Point, known_cost
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.trial.data import prepare_task

SECONDS = 0.5
"""Duration of the timed training, and of the timed evaluation, at each point; at least four batches each."""


@dataclass(frozen=True)
class Measured:
    """Costs of the points, in their order, and the seconds until a process was ready to train the first of them."""

    costs: list[Cost]
    process_start: float


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
    starts = [start for start, _ in found]
    seconds = np.mean([figures for _, figures in found], axis=0)
    costs = [known_cost(spec, point, *row) for point, row in zip(points, seconds.tolist(), strict=True)]
    return Measured(costs, float(np.mean(starts)))


def _measure(work: tuple[float, list[str]]) -> tuple[float, list[tuple[float, float, float]]]:
    """Seconds until the first trial was built; then for each trial the seconds of a step, an evaluation and a start."""
    from proxytune.tuning.trial.efficiency import measure_efficiency
    from proxytune.tuning.trial.trial_run import TrialRun

    asked, trials = work
    start = 0.0
    figures: list[tuple[float, float, float]] = []
    for text in trials:
        spec = TrialSpec.model_validate_json(text)
        began = time.perf_counter()
        TrialRun(spec, None)
        built = time.perf_counter() - began
        if not figures:  # the first trial loads what all trials share; time it again
            start = time.time() - asked
            began = time.perf_counter()
            TrialRun(spec, None)
            built = time.perf_counter() - began
        speeds = measure_efficiency(spec, seconds=SECONDS)
        step = int(spec.training["batch_size"]) / speeds["train_sequences_per_second"]
        rows = len(prepare_task(spec.task).validation)
        figures.append((step, rows / speeds["inference_sequences_per_second"], built))
    return start, figures
