"""The commands of the simulated searches: `race` and `warm-start`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from proxytune.tuning.commands.bench import finish, measured, numbers
from proxytune.tuning.commands.options import err
from proxytune.tuning.errors import InputError

seeds_option = click.option(
    "--seeds",
    "num_seeds",
    default=30,
    show_default=True,
    type=click.IntRange(min=2),
    help="Number of seeds per race.",
)


def records_option(name: str) -> Callable[[Any], Any]:
    """The option of the file of finished races."""
    return click.option(
        "--records",
        type=click.Path(path_type=Path, dir_okay=False),
        default=Path(f"build/bench/{name}.jsonl"),
        show_default=True,
        help="File of finished races; only missing races are run.",
    )


@click.command("race")
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    help="Folder of surrogates in the format of LCBench, or of files of the curve bank; default: the curve bank and Hartmann functions.",
)
@click.option("--tasks", default="", help="Tasks of the table, separated by commas; default: all.")
@click.option("--methods", default="", help="Methods, separated by semicolons; default: all.")
@click.option("--workers", default="1,4,16", show_default=True, help="Numbers of workers.")
@seeds_option
@click.option(
    "--budgets", default="", help="Budgets in full trainings per worker; default: between 1.25 and 16."
)
@records_option("race")
@click.option("--finished", is_flag=True, help="Only show the recorded races.")
@measured
def race(
    table: Path | None,
    tasks: str,
    methods: str,
    workers: str,
    num_seeds: int,
    budgets: str,
    records: Path,
    finished: bool,
    folder: Path,
    quick: bool,
    as_json: bool,
) -> None:
    """Regret by budget of simulated searches over tables of training curves, compared with other methods.

    \b
    python tests/benchmarks race --table ../shared/data/lcbench --workers 1 --seeds 30
    python tests/benchmarks race --quick
    """
    from tests.benchmarks.race import picture, report
    from tests.benchmarks.race.methods import BUDGETS, METHODS, OURS, STOCK
    from tests.benchmarks.race.run import known, make_groups, run

    groups = make_groups(table, [name for name in tasks.split(",") if name])
    num_workers = numbers("--workers", workers)
    multiples = _floats("--budgets", budgets) if budgets else list(BUDGETS)
    chosen = methods.split(";") if methods else list(METHODS)
    records.parent.mkdir(parents=True, exist_ok=True)
    if quick:
        groups = {name: list(group)[:1] for name, group in groups.items()}
        num_workers, multiples, num_seeds = [2], multiples[:2], 2
        chosen = methods.split(";") if methods else [OURS, STOCK]
    if finished:
        result = known(records, groups, num_workers, multiples)
    else:
        result = run(records, groups, chosen, num_workers, num_seeds, multiples, err.print)
    differences = report.differences_table(result)
    finish(folder, as_json, "race", report.headline(result), result, picture.draw(result), differences)


@click.command("warm-start")
@seeds_option
@click.option(
    "--budgets", default="0.5,1,2,4,8", show_default=True, help="Budgets in full trainings; one worker."
)
@records_option("warm-start")
@measured
def warm_start(num_seeds: int, budgets: str, records: Path, folder: Path, quick: bool, as_json: bool) -> None:
    """Regret of simulated searches that start from another study of the curve bank, compared with no warm start.

    \b
    python tests/benchmarks warm-start --seeds 10
    """
    from tests.benchmarks.race import warm_start as benchmark
    from tests.benchmarks.race.tables import recorded_tasks

    tasks, multiples = recorded_tasks(), _floats("--budgets", budgets)
    if quick:
        tasks, multiples, num_seeds = tasks[:1], multiples[:2], 2
    records.parent.mkdir(parents=True, exist_ok=True)
    result = benchmark.run(tasks, records, num_seeds, multiples, err.print)
    figure, shown = benchmark.figure(result), benchmark.table(result)
    finish(folder, as_json, "warm-start", benchmark.headline(result), result, figure, shown)


def _floats(option: str, text: str) -> list[float]:
    try:
        return sorted(float(number) for number in text.split(","))
    except ValueError:
        raise InputError(f"{option} is {text!r}: expected numbers separated by commas") from None
