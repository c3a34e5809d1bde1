"""`compare`: a table and a plot of configurations from finished studies."""

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
from proxytune.tuning.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxytune.tuning.compare.row import Row
    from proxytune.tuning.store.study import Study


@click.command()
@click.argument("studies", nargs=-1, required=True)
@click.option("--measure", is_flag=True, help="Measure the missing throughputs on this machine.")
@click.option(
    "--test", is_flag=True, help="Test all trials of studies without selection, as one opening per study."
)
@click.option("--again", is_flag=True, help="Open the test split again; every export records it.")
@click.option(
    "--out",
    "path",
    type=click.Path(path_type=Path),
    help="Also write a new .html file (with a plot) or .md file.",
)
@storage_option
@database_option
@json_option
def compare(
    studies: tuple[str, ...],
    measure: bool,
    test: bool,
    again: bool,
    path: Path | None,
    storage: Path,
    database: str | None,
    as_json: bool,
) -> None:
    """Compare configurations of finished STUDIES: accuracy, differences, memory and throughput, as ratios to softmax.

    A study that trains a fixed list (a grid, or everything enqueued) has a row for each configuration, over its seeds. A
    search has a row for each mechanism: its confirmation, or its best search value, which is marked as optimistic.
    Differences are to the first row of a task and paired by seed. Published figures are shown separately, with their sources.

    \b
    proxytune compare paper-listops
    proxytune compare paper-listops --test
    proxytune compare text-proxyformer text-softmax --measure --out comparison.html
    """
    from proxytune.tuning.compare import page as page
    from proxytune.tuning.compare.compare import compare
    from proxytune.tuning.compare.published import PROXYFORMER
    from proxytune.tuning.store.folder import write_file
    from proxytune.tuning.store.study import open_study

    formats = {".html": page.as_html, ".md": page.as_markdown}
    if path is not None and (path.exists() or path.suffix not in formats):
        raise InputError(f"--out {path}: name a new file that ends in {' or '.join(formats)}")
    if len(set(studies)) < len(studies):
        raise InputError("a study is named twice; name each study once")
    opened = [open_study(study, storage, database) for study in studies]
    found = compare(opened)
    if test:
        _test(opened, again)
    if measure:
        _measure(opened, found.rows)
    if test or measure:
        found = compare(opened)
    if path is not None:
        write_file(path, formats[path.suffix](found).encode())
        err.print(f"written: {path.absolute()}")
    others = page.published_tables([row.task for row in found.rows])
    if as_json:
        published = [{"source": title, "head": head, "rows": rows} for title, head, rows in others]
        print_json(found.to_json() | {"published": published, "proxyformer": PROXYFORMER})
        return
    _show("measured by proxytune", page.HEAD, [page.cells(row) for row in found.rows])
    for note in found.notes:
        out.print(f"- {note}")
    for title, head, rows in others:
        _show(f"published, test accuracy in %: {title}", head, rows)
    if others:
        out.print(PROXYFORMER)


def _test(studies: "Sequence[Study]", again: bool) -> None:
    from proxytune.tuning.compare.fixed_list import evaluate_on_test
    from proxytune.tuning.store.steering import terminal_user

    for study in studies:
        evaluate_on_test(
            study,
            who=terminal_user(),
            again=again,
            say=lambda line: err.print(line),
        )


def _measure(studies: "Sequence[Study]", rows: "Sequence[Row]") -> None:
    from proxytune.tuning.compare.compare import specs_without_speed
    from proxytune.tuning.confirm.confirm import efficiency_folder
    from proxytune.tuning.trial.efficiency import stored_efficiency

    for study in studies:
        for spec in specs_without_speed(study, rows):
            err.print(f"measuring {spec.model['attention']} of study {study.name}")
            stored_efficiency(spec, efficiency_folder(study))


def _show(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from proxytune.tuning.compare import page as page

    table = Table(title=title, title_justify="left", pad_edge=False, box=None)
    for name in head:
        table.add_column(name, justify="left" if name in page.WORDS else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table)
