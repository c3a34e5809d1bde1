"""Statistics of race records: paired differences with bootstrap intervals, and ranks over tasks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, rankdata, studentized_range

from tests.benchmarks.race.methods import Run
from tests.benchmarks.race.simulate import Outcome

Array = NDArray[np.float64]
NUM_RESAMPLES = 2000


def regrets(
    records: Mapping[Run, Outcome], rule: str, workers: int, method: str
) -> dict[str, dict[int, Array]]:
    """The regret at each budget, by task and seed."""
    found: dict[str, dict[int, Array]] = {}
    for run, outcome in sorted(records.items(), key=lambda item: item[0]):
        if (run.workers, run.method) == (workers, method):
            found.setdefault(run.task, {})[run.seed] = np.array(outcome.regrets[rule])
    return found


def differences(
    ours: Mapping[str, Mapping[int, Array]], theirs: Mapping[str, Mapping[int, Array]]
) -> list[Array]:
    """Our regret minus theirs per task, shape (seeds, budgets), over the seeds that both have run."""
    pairs = []
    for task in ours.keys() & theirs.keys():
        seeds = sorted(ours[task].keys() & theirs[task].keys())
        if seeds:
            pairs.append((task, np.array([ours[task][seed] - theirs[task][seed] for seed in seeds])))
    return [rows for _, rows in sorted(pairs, key=lambda pair: pair[0])]


def interval(samples: Sequence[Array]) -> dict[str, float]:
    """The mean over tasks of the mean over seeds, and its 95 % bootstrap interval.

    Seeds are resampled within each task and the tasks are fixed, so the interval is conditional on these tasks. If a
    task has only one seed, the tasks' means are resampled instead.
    """
    means = np.array([sample.mean() for sample in samples])
    mean = float(means.mean())
    low = high = mean
    if min(map(len, samples)) == 1:
        samples = [means]
    if any(np.ptp(sample) > 0 for sample in samples):
        found = bootstrap(
            list(samples),
            lambda *resampled, axis=-1: np.mean([sample.mean(axis=axis) for sample in resampled], axis=0),
            n_resamples=NUM_RESAMPLES,
            method="percentile",
            vectorized=True,
            rng=np.random.default_rng(0),
        ).confidence_interval
        low, high = float(found.low), float(found.high)
    return {"mean": mean, "low": low, "high": high}


def paired(
    records: Mapping[Run, Outcome], rule: str, workers: int, method: str, reference: str
) -> dict[str, Any] | None:
    """A method's regret minus the reference's at each budget; None if they share no race."""
    theirs = regrets(records, rule, workers, reference)
    rows = differences(regrets(records, rule, workers, method), theirs)
    if not rows:
        return None
    columns = range(rows[0].shape[1])
    return {
        "tasks": len(rows),
        "seeds": min(map(len, rows)),
        "points": [interval([task[:, column] for task in rows]) for column in columns],
    }


def mean_ranks(
    records: Mapping[Run, Outcome], rule: str, workers: int, methods: Sequence[str], budget: int
) -> tuple[dict[str, float], int]:
    """The mean rank over tasks at a budget (by its index; 1 is best), and the number of tasks that all methods share.

    On each task methods are ranked by their mean regret over the seeds that all of them have run; ties share a rank.
    """
    tables = {method: regrets(records, rule, workers, method) for method in methods}
    shared = set.intersection(*(set(table) for table in tables.values()))
    ranks = []
    for task in sorted(shared):
        seeds = set.intersection(*(set(table[task]) for table in tables.values()))
        if seeds:
            means = [np.mean([table[task][seed][budget] for seed in seeds]) for table in tables.values()]
            ranks.append(rankdata(np.round(means, 9)))
    if not ranks:
        return {}, 0
    return dict(zip(methods, np.mean(ranks, axis=0).tolist(), strict=True)), len(ranks)


def critical_difference(num_methods: int, num_tasks: int) -> float:
    """The difference of mean ranks that is significant at 5 % (Nemenyi's test; Demsar 2006)."""
    q = float(studentized_range.ppf(0.95, num_methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(num_methods * (num_methods + 1) / (6 * num_tasks))
