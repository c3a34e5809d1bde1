"""docs/FAULTS.md from what the fault tests kept under build/faults, and from soaks.jsonl: `make faults`, or python table.py > docs/FAULTS.md."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
SOAKS = Path(__file__).with_name("soaks.jsonl")  # the results of `make soak`
ELSEWHERE = {
    "driver and shipper killed with -9 at 25 (slow: 500) random points": "tests/tuning/tracking/test_crashes.py::test_kills_lose_and_double_nothing",
    "driver interrupted, killed with -9 and contended in one study; a worker killed with -9": "tests/tuning/run/test_run.py::test_interrupted_killed_and_contended_it_goes_on_and_runs_nothing_twice",
    "a trial's worker killed with -9, NaN, Inf, out of memory, an exception; the driver killed by a trial": "tests/tuning/search/test_state_matrix.py::test_a_trial_ends_as_the_state_table_says",
    "the whole of Ray dies under the driver": "tests/tuning/cluster/test_ray_death.py::test_a_dead_ray_ends_the_driver_in_one_line_and_the_next_goes_on",
    "MLflow killed and hung again and again": "tests/tuning/tracking/test_servers.py::test_a_server_killed_and_hung_again_and_again",
    "PostgreSQL stopped as by a power cut": "tests/tuning/tracking/test_servers.py::test_postgresql_holds_a_study_exactly_through_a_crash",
    "a writer of prepared data killed": "tests/datasets/test_killed_preparation.py::test_killed_preparation_leaves_no_process_and_no_file",
    "hostile archives": "tests/datasets/test_archives.py::test_malicious_archive_is_rejected",
    "damage anywhere in Arrow files of others": "tests/datasets/test_bad_files.py::test_damaged_arrow_input_raises_data_error_and_never_crashes",
    "damage anywhere in pickles of others": "tests/datasets/test_safe_pickle.py::test_damaged_pickle_loads_or_raises_data_error",
}
"""Faults whose tests lie with the part that they try; they keep no figures here."""
HEAD = """# Faults

What happens to a study when something breaks. Made by `make faults` from its tests' results: do not edit.

*Lost* counts evaluations and ends of trials that an unbroken study has and this one lacks (for MLflow: points); *doubled* those that are there twice. *Seconds* go from the end of the fault, or the restart, to the end of the study.

| fault | times | lost | doubled | seconds | what is seen |
|---|---|---|---|---|---|
"""


def rows(folder: Path) -> list[dict[str, Any]]:
    """One row a fault; of several with one name the sums, and the slowest."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text())
        found[row["fault"]].append(row)
    merged = []
    for fault, same in sorted(found.items()):
        seconds = [row["seconds"] for row in same if row["seconds"] is not None]
        merged.append(
            same[0]
            | {"fault": fault, "seconds": max(seconds) if seconds else None}
            | {key: sum(row[key] for row in same) for key in ("injected", "lost", "doubled")}
        )
    return merged


def soak_section(results: list[dict[str, Any]]) -> str:
    """The kept soaks: their seeds, how often each kind was injected in all, and what was checked afterwards."""
    times: Counter[str] = Counter()
    for result in results:
        times.update(result["injected"])
    counts = "".join(f"| {kind.replace('_', ' ')} | {number} |\n" for kind, number in times.items())
    runs = "".join(
        f"| {result['date']} | {result['seed']} | {len(result['injected'])} | {sum(result['injected'].values())} | "
        f"{result['minutes']:.0f} | {result['load']:.0f} | {result['checked']['trials']:,} | "
        f"{result['checked']['points']:,} | {len(result['problems'])} |\n"
        for result in results
    )
    return (
        "\n## Soak\n\n"
        "One study under a random schedule of faults (`make soak SEED=... MINUTES=...`; the seed replays it, and "
        "`tests/faults/soak.py --only KIND` takes some kinds alone). "
        "Afterwards plain SQL over the study's and MLflow's databases, and the journal's lines, must show every trial "
        "complete once, every step once with the value that follows from the trial's parameters, the winner, no file "
        "and no process left. Whatever differs is a problem.\n\n"
        "| date | seed | kinds | faults | minutes | load | trials | points in MLflow | problems |\n"
        "|---|---|---|---|---|---|---|---|---|\n" + runs + "\n| kind | times |\n|---|---|\n" + counts
    )


def table(kept: list[dict[str, Any]], soaks: list[dict[str, Any]]) -> str:
    """The whole document."""
    lines = [
        f"| {row['fault']} | {row['injected']} | {row['lost']} | {row['doubled']} | "
        f"{'' if row['seconds'] is None else format(row['seconds'], '.0f')} | {row['seen']} |\n"
        for row in kept
    ]
    dates = sorted({row["date"] for row in kept})
    loads = [row["load"] for row in kept]
    cpus = sorted({row["cpus"] for row in kept})
    made = (
        f"\nMeasured {' to '.join(dates[:1] + dates[1:][-1:])} on {', '.join(map(str, cpus))} CPUs under a load of "
        f"{min(loads):.0f} to {max(loads):.0f} (so the seconds are upper bounds), studies of 3 trials of 200 steps.\n"
        if kept
        else ""
    )
    others = "".join(f"| {fault} | `{test}` |\n" for fault, test in ELSEWHERE.items())
    return (
        HEAD
        + "".join(lines)
        + made
        + "\nFaults that are tried with the part they hit, by tests that keep no figures here:\n\n| fault | test |\n|---|---|\n"
        + others
        + (soak_section(soaks) if soaks else "")
    )


if __name__ == "__main__":
    soaks = [json.loads(line) for line in SOAKS.read_text().splitlines()]
    print(table(rows(REPOSITORY / "build" / "faults"), soaks), end="")
