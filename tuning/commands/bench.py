"""`proxytune bench`: the benchmarks."""

import click

from proxytune.tuning.commands.options import json_option, out, print_json


@click.group()
def bench() -> None:
    """Measure, always against what a user would pick instead, as ratios within one run."""


@bench.command("turnaround")
@click.option(
    "--trials", "num_trials", default=200, show_default=True, help="Trials without work, 3 reports each."
)
@click.option("--stock-trials", default=50, show_default=True, help="The same with stock Ray Tune.")
@json_option
def bench_turnaround(num_trials: int, stock_trials: int, as_json: bool) -> None:
    """Seconds a trial without work, tracking on, against stock Ray Tune + OptunaSearch + MLflowLoggerCallback."""
    from proxytune.tuning.benchmarks import turnaround

    result = turnaround.run(num_trials, stock_trials)
    if as_json:
        print_json(result)
        return
    for name, value in result.items():
        out.print(f"{name}: {value:.4g}", highlight=False)
