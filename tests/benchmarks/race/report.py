"""The result of a race from its records, for the JSON, the figure and the tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table as RichTable

from tests.benchmarks.race.methods import ONE_EPOCH, OURS, STOCK, Run
from tests.benchmarks.race.simulate import RULES, Outcome
from tests.benchmarks.race.statistics import critical_difference, interval, mean_ranks, paired, regrets

MIDDLE = 4.0  # the budget at which methods are ranked
SHOWN = (1.5, 2.0, 4.0, 8.0)


def summarise(
    records: Mapping[Run, Outcome], groups: Mapping[str, Sequence[str]], budgets: Sequence[float]
) -> dict[str, Any]:
    """Results by group of tasks, rule and number of workers."""
    workers = sorted({run.workers for run in records})
    return {
        "budgets": list(budgets),
        "workers": workers,
        "methods": sorted({run.method for run in records}),
        "groups": {
            group: {
                "tasks": list(tasks),
                "rules": _rules({run: o for run, o in records.items() if run.task in tasks}, budgets),
            }
            for group, tasks in groups.items()
            if any(run.task in tasks for run in records)
        },
        "search": {str(number): _search_time(records, number) for number in workers},
    }


def _rules(records: Mapping[Run, Outcome], budgets: Sequence[float]) -> dict[str, Any]:
    workers = sorted({run.workers for run in records})
    return {
        rule: {str(number): _block(records, rule, number, budgets) for number in workers} for rule in RULES
    }


def _block(
    records: Mapping[Run, Outcome], rule: str, workers: int, budgets: Sequence[float]
) -> dict[str, Any]:
    methods = sorted({run.method for run in records if run.workers == workers})
    regret = {}
    for method in methods:
        rows = [np.array(list(seeds.values())) for seeds in regrets(records, rule, workers, method).values()]
        points = [interval([seeds[:, column] for seeds in rows]) for column in range(len(budgets))]
        regret[method] = {"tasks": len(rows), "seeds": min(map(len, rows)), "points": points}
    middle = min(range(len(budgets)), key=lambda index: abs(budgets[index] - MIDDLE))
    ranks, num_tasks = mean_ranks(records, rule, workers, methods, middle)
    comparable = num_tasks > 1 and len(methods) > 1
    return {
        "regret": regret,
        "less stock": _against(records, rule, workers, methods, STOCK),
        "less one epoch": _against(records, rule, workers, methods, ONE_EPOCH),
        "ranks": {
            "budget": budgets[middle],
            "tasks": num_tasks,
            "mean": ranks,
            "critical difference": critical_difference(len(methods), num_tasks) if comparable else None,
        },
    }


def _against(
    records: Mapping[Run, Outcome], rule: str, workers: int, methods: Sequence[str], reference: str
) -> dict[str, Any]:
    found = {
        method: paired(records, rule, workers, method, reference) for method in methods if method != reference
    }
    return {method: entry for method, entry in found.items() if entry is not None}


def _search_time(records: Mapping[Run, Outcome], workers: int) -> dict[str, dict[str, float]]:
    """CPU milliseconds of the search per proposed trial, and the number of proposals per race."""
    found = {}
    for method in sorted({run.method for run in records if run.workers == workers}):
        outcomes = [o for run, o in records.items() if (run.workers, run.method) == (workers, method)]
        asks = sum(outcome.asks for outcome in outcomes)
        seconds = sum(outcome.search_seconds for outcome in outcomes)
        found[method] = {"milliseconds an ask": 1000 * seconds / asks, "asks a race": asks / len(outcomes)}
    return found


def text(point: Mapping[str, float]) -> str:
    """A mean and its interval, in hundredths."""
    return f"{100 * point['mean']:.2f} [{100 * point['low']:.2f}, {100 * point['high']:.2f}]"


def headline(result: Mapping[str, Any]) -> dict[str, str]:
    """The rows for the table of all benchmarks: ours minus stock at the middle budget, by group and workers."""
    found = {}
    for group, entry in result["groups"].items():
        for workers, block in entry["rules"]["trained"].items():
            ours = block["less stock"].get(OURS)
            if ours is not None:
                column = result["budgets"].index(block["ranks"]["budget"])
                what = f"{group}, {workers} workers: regret minus that of stock after {block['ranks']['budget']:g} trainings per worker, hundredths"
                found[what] = f"{text(ours['points'][column])} ({ours['seeds']} seeds)"
    return found


def differences_table(result: Mapping[str, Any], reference: str = "less stock") -> RichTable:
    """The paired differences of all methods, one row per group, rule, number of workers and method."""
    shown = [budget for budget in SHOWN if budget in result["budgets"]] or result["budgets"]
    table = RichTable("tasks", "rule", "workers", "method", "seeds", *(f"{budget:g}" for budget in shown))
    for group, entry in result["groups"].items():
        for rule, blocks in entry["rules"].items():
            for workers, block in blocks.items():
                for method, row in block[reference].items():
                    points = [row["points"][result["budgets"].index(budget)] for budget in shown]
                    table.add_row(group, rule, workers, method, str(row["seeds"]), *map(text, points))
    return table
