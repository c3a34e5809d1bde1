"""Select the tasks and methods of a race, run it and summarise the result."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from proxytune.tuning.errors import InputError
from proxytune.tuning.studies import banked_studies
from tests.benchmarks.race.lcbench import surrogate_tasks
from tests.benchmarks.race.methods import METHODS, Run
from tests.benchmarks.race.records import read_records, run_missing
from tests.benchmarks.race.report import summarise
from tests.benchmarks.race.tables import Hartmann, Task, recorded_tasks


def make_groups(folder: Path | None, names: Sequence[str]) -> dict[str, list[Task]]:
    """The tasks by group: those of a folder of surrogates or of files of the curve bank, else the curve bank and Hartmann.

    Raises:
        InputError: a table is invalid.
    """
    if folder is not None and banked_studies(folder):
        found = {task.name: task for task in recorded_tasks(folder)}
        if unknown := set(names) - found.keys():
            raise InputError(f"no task {min(unknown)} in the table; available: {', '.join(found)}")
        return {folder.name: [found[name] for name in names or found]}
    if folder is not None:
        return {folder.name: list(surrogate_tasks(folder, names))}
    if names:
        raise InputError("--tasks needs the folder of a table, set with --table")
    hartmann: list[Task] = [Hartmann(size, preset) for size in (3, 6) for preset in Hartmann.PRESETS]
    return {"own curves": list(recorded_tasks()), "hartmann": hartmann}


def run(
    records: Path,
    groups: Mapping[str, Sequence[Task]],
    methods: Sequence[str],
    workers: Sequence[int],
    num_seeds: int,
    budgets: Sequence[float],
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run the races that are not in `records`, seed by seed, and summarise all requested races.

    Raises:
        InputError: an unknown method, or a table that returns NaN.
    """
    for method in methods:
        if method not in METHODS:
            raise InputError(f"no method {method!r}; available: {', '.join(METHODS)}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    tasks = {task.name: task for group in groups.values() for task in group}
    wanted = [
        Run(number, seed, task, method)
        for number in workers
        for seed in range(num_seeds)
        for method in methods
        for task in tasks
    ]
    finished = run_missing(records, tasks, wanted, budgets, progress)
    return summarise(
        finished, {name: [task.name for task in group] for name, group in groups.items()}, budgets
    )


def known(
    records: Path, groups: Mapping[str, Sequence[Task]], workers: Sequence[int], budgets: Sequence[float]
) -> dict[str, Any]:
    """Summarise the races in `records`, of all methods and seeds."""
    names = {task.name for group in groups.values() for task in group}
    found = {
        run: outcome
        for run, outcome in read_records(records, budgets).items()
        if run.task in names and run.workers in workers and run.method in METHODS
    }
    if not found:
        raise InputError(f"{records}: contains no race of these tasks, workers and budgets")
    return summarise(found, {name: [task.name for task in group] for name, group in groups.items()}, budgets)
