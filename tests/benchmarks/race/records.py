"""Records of finished races, one JSON object per line; recorded races are not repeated."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.race.methods import Run, race
from tests.benchmarks.race.simulate import Outcome
from tests.benchmarks.race.tables import Task


def read_records(path: Path, budgets: Sequence[float]) -> dict[Run, Outcome]:
    """The finished races of a file with these budgets; truncated lines are skipped."""
    records: dict[Run, Outcome] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if set(budgets) <= set(row["budgets"]):
            outcome = Outcome(**row["outcome"])
            columns = [row["budgets"].index(budget) for budget in budgets]
            outcome.regrets = {
                rule: [values[column] for column in columns] for rule, values in outcome.regrets.items()
            }
            records[Run(**row["run"])] = outcome
    return records


def run_missing(
    path: Path,
    tasks: Mapping[str, Task],
    runs: Iterable[Run],
    budgets: Sequence[float],
    progress: Callable[[str], None] = lambda text: None,
) -> dict[Run, Outcome]:
    """Run the races that are not in the file, and append each result. Returns all requested races."""
    records = read_records(path, budgets)
    wanted = list(runs)
    missing = [run for run in wanted if run not in records]
    with path.open("a", encoding="utf-8") as file:
        for number, run in enumerate(missing, start=1):
            outcome = race(tasks[run.task], run, budgets)
            records[run] = outcome
            row = {"run": asdict(run), "budgets": list(budgets), "outcome": asdict(outcome)}
            file.write(json.dumps(row) + "\n")
            file.flush()
            progress(f"{number} of {len(missing)}: {run}")
    return {run: records[run] for run in wanted}
