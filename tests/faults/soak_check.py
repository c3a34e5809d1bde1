"""Checks of a study after a soak test, by SQL and on its files. Independent of the product: imports nothing of it."""

import json
import math
import re
import sqlite3
import zlib
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

EXPECTED = re.compile(
    r"study-id|\.study\.db\.lock|spec\.yaml|study\.db(-wal|-shm)?|outbox(/(events\.jsonl|epoch|writer\.lock|acknowledged-[0-9a-f]{12}\.json(\.lock)?))?"
    r"|trials(/\d+(/step-\d{10}(/(manifest\.json|state-[0-9a-f]{32}\.pt))?)?)?"
)
"""Permitted paths below the study's folder."""


def problems(
    study: Path, mlflow: Path, steps: int, every: int, temporary: Path
) -> tuple[list[str], dict[str, int]]:
    """Lost, duplicated and wrong values and leftover files, and the counts of what was checked."""
    found: list[str] = []
    with closing(sqlite3.connect(study / "study.db")) as database:
        trials = _trials(database)
    dropouts = {number: trial["dropout"] for number, trial in trials.items()}
    expected = {
        (number, step): math.fsum([dropout] * step)
        for number, dropout in dropouts.items()
        for step in range(every, steps + 1, every)
    }
    if sorted(trials) != list(range(len(trials))):
        found.append("study.db: trial numbers are not 0, 1, 2, ...")
    for number, trial in trials.items():
        if trial["state"] != "COMPLETE":
            found.append(f"study.db: trial {number} is {trial['state']}")
        elif not math.isclose(trial["value"], expected[number, steps], rel_tol=1e-9):
            found.append(
                f"study.db: trial {number} has value {trial['value']}, not {expected[number, steps]}"
            )
        found += [
            f"study.db: trial {number} step {step} has {value}"
            for step, value in trial["reports"].items()
            if not math.isclose(value, expected[number, step], rel_tol=1e-9)
        ]
    reports, ends = _journal(study / "outbox" / "events.jsonl", found)
    found += _compare("journal", reports, expected)
    found += [f"journal: trial {number} ended {ends[number]} times" for number in trials if ends[number] != 1]
    with closing(sqlite3.connect(mlflow)) as database:
        points, runs = _points(database)
    found += _compare("MLflow", points, expected)
    found += [f"MLflow: {count} runs of trial {number}" for number, count in runs.items() if count != 1]
    found += [f"leftover file: {name}" for name in _leftover_files(study, temporary)]
    best = max(trials, key=lambda number: (trials[number]["value"], -number), default=-1)
    return found, {"trials": len(trials), "points": len(points), "best": best}


def _trials(database: sqlite3.Connection) -> dict[int, dict[str, Any]]:
    trials: dict[int, dict[str, Any]] = {}
    ids: dict[int, int] = {}
    for identity, number, state in database.execute("SELECT trial_id, number, state FROM trials"):
        ids[identity] = number
        trials[number] = {"state": state, "reports": {}, "value": math.nan, "dropout": math.nan}
    for identity, value in database.execute("SELECT trial_id, param_value FROM trial_params"):
        trials[ids[identity]]["dropout"] = value
    for identity, value in database.execute("SELECT trial_id, value FROM trial_values"):
        trials[ids[identity]]["value"] = value
    query = "SELECT trial_id, step, intermediate_value FROM trial_intermediate_values"
    for identity, step, value in database.execute(query):
        trials[ids[identity]]["reports"][step] = value
    return trials


def _journal(path: Path, found: list[str]) -> tuple[list[tuple[int, int, float]], Counter[int]]:
    """(trial, step, value) of each report, and the number of final ends of each trial."""
    reports, ends = [], Counter[int]()
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        body, _, tail = line.rpartition(b',"crc32":"')
        if tail != b'%08x"}' % zlib.crc32(body):
            found.append(f"journal: line {number} is damaged")
            continue
        event = json.loads(body + b"}")
        if event["kind"] == "report":
            reports.append((event["trial"], event["step"], event["metrics"]["val_accuracy"]))
        elif event["kind"] == "end" and event["outcome"] not in ("interrupted", "paused"):
            ends[event["trial"]] += 1
    return reports, ends


def _points(database: sqlite3.Connection) -> tuple[list[tuple[int, int, float]], Counter[int]]:
    """(trial, step, value) of each point of val_accuracy, and the number of runs of each trial."""
    query = "SELECT run_uuid, value FROM tags WHERE key = 'trial_key'"
    numbers = {run: int(key.rpartition("/")[2]) for run, key in database.execute(query)}
    query = "SELECT run_uuid, step, value FROM metrics WHERE key = 'val_accuracy'"
    points = [(numbers[run], step, value) for run, step, value in database.execute(query) if run in numbers]
    return points, Counter(numbers.values())


def _compare(
    source: str, values: list[tuple[int, int, float]], expected: dict[tuple[int, int], float]
) -> list[str]:
    counts = Counter((trial, step) for trial, step, _ in values)
    found = [
        f"{source}: trial {trial} step {step} is missing"
        for trial, step in expected
        if not counts[trial, step]
    ]
    found += [
        f"{source}: trial {trial} step {step} exists {n} times"
        for (trial, step), n in counts.items()
        if n > 1
    ]
    for trial, step, value in values:
        if not math.isclose(value, expected.get((trial, step), math.nan), rel_tol=1e-9):
            found.append(f"{source}: trial {trial} step {step} has {value}")
    return found


def _leftover_files(study: Path, temporary: Path) -> list[str]:
    names = [str(path.relative_to(study)) for path in study.rglob("*")]
    return [name for name in names if not EXPECTED.fullmatch(name)] + [
        str(path) for path in temporary.iterdir()
    ]
