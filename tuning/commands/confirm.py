"""`confirm`: the search's best on fresh seeds, and the winner on the test split."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from proxytune.tuning.commands.options import (
    database_option,
    err,
    json_option,
    out,
    print_json,
    storage_option,
)

if TYPE_CHECKING:
    from proxytune.tuning.store.confirmation import Confirmation


@click.command()
@click.argument("study")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many candidates.")
@click.option(
    "--seeds",
    "num_seeds",
    type=click.IntRange(2),
    default=5,
    show_default=True,
    help="Seeds of each, at most.",
)
@click.option(
    "--again", is_flag=True, help="Open the test split although it was opened before; every export says so."
)
@click.option(
    "--address",
    default="local",
    show_default=True,
    help="The Ray cluster: local starts one here; auto or HOST:PORT on a node of one that runs already.",
)
@storage_option
@database_option
@json_option
def confirm(
    study: str,
    top: int,
    num_seeds: int,
    again: bool,
    address: str,
    storage: Path,
    database: str | None,
    as_json: bool,
) -> None:
    """Train the best candidates of STUDY again on fresh seeds, choose the winner, and test it once.

    The candidates (with several objectives: the Pareto front) race: one that is clearly worse gets no more seeds. Of
    those that nothing tells apart the one that takes least memory wins. Then the test split is opened, for the winner
    alone, and the opening recorded. Ctrl-C stops it; the same command goes on.

    \b
    proxytune confirm listops-mini
    proxytune confirm listops --top 3 --seeds 8 --json
    """
    from proxytune.tuning.confirm.confirm import confirm_study
    from proxytune.tuning.run.data_progress import data_progress
    from proxytune.tuning.run.progress import Watch
    from proxytune.tuning.store.steering import terminal_user
    from proxytune.tuning.store.study import open_study
    from proxytune.tuning.trial.data import prepare_task

    opened = open_study(study, storage, database)
    with data_progress(err, opened.spec.task.name) as report:
        prepare_task(opened.spec.task, report)
    found = confirm_study(
        opened,
        top=top,
        num_seeds=num_seeds,
        who=terminal_user(),
        again=again,
        address=address,
        watch=functools.partial(Watch, err),
        say=lambda line: err.print(line, highlight=False, markup=False),
    )
    if as_json:
        print_json(found.to_json())
    else:
        show_confirmation(found)


def show_confirmation(found: "Confirmation") -> None:
    """A confirmation for people."""
    from proxytune.tuning.spec.metrics import MEMORY

    table = Table(title=f"{found.study}: {found.objective} on fresh seeds", title_justify="left")
    for column in (
        "trial",
        "search",
        "confirmed mean",
        "95 % interval",
        "seeds",
        "memory MiB",
        "train seq/s",
    ):
        table.add_column(column, justify="right")
    table.add_column("")
    for candidate in found.candidates:
        low_high = "" if candidate.interval is None else "{:.4f} to {:.4f}".format(*candidate.interval)
        seeds = len(candidate.seeds)
        if candidate.eliminated_after is not None:
            verdict = f"out after {candidate.eliminated_after} seeds: {candidate.reason}"
        elif candidate.trial == found.winner:
            verdict = "winner"
        else:
            verdict = "tied" if candidate.trial in found.tied else ""
        table.add_row(
            str(candidate.trial),
            f"{candidate.search_value:.4f}",
            "" if candidate.mean is None else f"{candidate.mean:.4f}",
            low_high,
            str(seeds),
            f"{candidate.efficiency[MEMORY]:.3g}",
            f"{candidate.efficiency['train_sequences_per_second']:.4g}",
            verdict,
        )
    out.print(table)
    if len(found.tied) > 1:
        trials = ", ".join(map(str, found.tied))
        out.print(
            f"tie: nothing tells trials {trials} apart; trial {found.winner} is the cheapest", highlight=False
        )
    out.print(f"the search's score of the winner was {found.gap:+.4f} better than its mean", highlight=False)
    if found.test is not None:
        test = found.test
        low_high = "" if test.interval is None else " [{:.4f}, {:.4f}]".format(*test.interval)
        again = f"; the test split has been opened {test.openings} times" if test.openings > 1 else ""
        out.print(
            f"on the test split ({test.num_examples:,} examples, {len(test.values)} models): accuracy "
            f"{test.mean:.4f}{low_high}{again}",
            highlight=False,
        )
