"""`confirm`: retrain the best trials of a search on fresh seeds, and test the winner."""

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
    quiet_optuna,
    storage_option,
)

if TYPE_CHECKING:
    from proxytune.tuning.store.confirmation import Candidate, Confirmation


@click.command()
@click.argument("study")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Number of candidates.")
@click.option(
    "--seeds",
    "num_seeds",
    type=click.IntRange(2),
    default=5,
    show_default=True,
    help="Maximum number of seeds per candidate.",
)
@click.option(
    "--trial",
    "also",
    type=click.IntRange(0),
    multiple=True,
    help="Also confirm this trial, whatever its value, such as an enqueued reference; repeatable. Once the test split "
    "is opened, further candidates need --again.",
)
@click.option("--again", is_flag=True, help="Open the test split again; every export records it.")
@click.option(
    "--address",
    default="local",
    show_default=True,
    help="Ray cluster: local starts a new one; auto or HOST:PORT connects from a node of a running cluster.",
)
@storage_option
@database_option
@json_option
def confirm(
    study: str,
    top: int,
    num_seeds: int,
    also: tuple[int, ...],
    again: bool,
    address: str,
    storage: Path,
    database: str | None,
    as_json: bool,
) -> None:
    """Retrain the best candidates of STUDY on fresh seeds, choose the winner, and test it once.

    Candidates (with several objectives: the Pareto front) that are clearly worse than the best get no further seeds. Of
    tied candidates, the one with the least memory wins. The test split is then opened for the winner only, and the
    opening is recorded. Ctrl-C stops; the same command resumes.

    \b
    proxytune confirm listops-mini
    proxytune confirm listops --top 3 --seeds 8 --trial 0 --json
    """
    from proxytune.tuning.confirm.confirm import confirm_study
    from proxytune.tuning.run.data_progress import data_progress
    from proxytune.tuning.run.progress import Watch
    from proxytune.tuning.store.steering import terminal_user
    from proxytune.tuning.store.study import open_study
    from proxytune.tuning.trial.data import prepare_task

    quiet_optuna()
    opened = open_study(study, storage, database)
    with data_progress(err, opened.spec.task.name) as report:
        prepare_task(opened.spec.task, report)
    found = confirm_study(
        opened,
        top=top,
        num_seeds=num_seeds,
        also=also,
        who=terminal_user(),
        again=again,
        address=address,
        watch=functools.partial(Watch, err),
        say=lambda line: err.print(line),
    )
    if as_json:
        print_json(found.to_json())
    else:
        show_confirmation(found)
        out.print(f"winner: trial {found.winner} ({found.rule})")


def show_confirmation(found: "Confirmation") -> None:
    """Print a confirmation: a table of the candidates, the optimism of the search score, the test."""
    table = Table(title=f"{found.study}: {found.objective} on fresh seeds", title_justify="left")
    heads = ("trial", "search", "mean", "95 % interval", "seeds", "memory MiB", "train seq/s")
    for column in heads:
        table.add_column(column, justify="right")
    table.add_column("")
    for candidate in found.candidates:
        table.add_row(*_cells(candidate), _verdict(found, candidate))
    out.print(table)
    for line in confirmation_lines(found):
        out.print(line)


def _cells(candidate: "Candidate") -> tuple[str, ...]:
    from proxytune.tuning.spec.metrics import MEMORY

    return (
        str(candidate.trial),
        f"{candidate.search_value:.4f}",
        "" if candidate.mean is None else f"{candidate.mean:.4f}",
        "" if candidate.interval is None else "{:.4f} to {:.4f}".format(*candidate.interval),
        str(len(candidate.seeds)),
        f"{candidate.efficiency[MEMORY]:.3g}",
        f"{candidate.efficiency['train_sequences_per_second']:.4g}",
    )


def _verdict(found: "Confirmation", candidate: "Candidate") -> str:
    if candidate.eliminated_after is not None:
        return f"out after {candidate.eliminated_after} seeds: {candidate.reason}"
    if candidate.trial == found.winner:
        return "winner"
    return "tied" if candidate.trial in found.tied else ""


def confirmation_lines(found: "Confirmation") -> list[str]:
    """One line for the optimism of the winner's search score, and one for its test."""
    best, lines = found.best, []
    if best.mean is not None:
        side = "better" if found.gap > 0 else "worse"
        comparison = f"{abs(found.gap):.4f} {side} than" if abs(found.gap) >= 5e-5 else "equal to"
        lines.append(
            f"the search had measured {best.search_value:.4f} for trial {found.winner}, {comparison} its mean {best.mean:.4f}"
        )
    if found.test is not None:
        test = found.test
        low_high = "" if test.interval is None else " (95 % interval {:.4f} to {:.4f})".format(*test.interval)
        again = f"; this study opened its test split {test.openings} times" if test.openings > 1 else ""
        lines.append(
            f"test split ({test.num_examples:,} examples, {len(test.values)} models): accuracy "
            f"{test.mean:.4f}{low_high}{again}"
        )
    return lines
