"""`compare`: the paper's table and plot from finished studies."""

import os
import uuid
from pathlib import Path

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


@click.command()
@click.argument("studies", nargs=-1, required=True)
@click.option(
    "--measure", is_flag=True, help="Measure, alone on this machine, the throughputs that are missing."
)
@click.option(
    "--out",
    "path",
    type=click.Path(path_type=Path),
    help="Also write a new .html (with a plot), .md or .csv file.",
)
@storage_option
@database_option
@json_option
def compare(
    studies: tuple[str, ...],
    measure: bool,
    path: Path | None,
    storage: Path,
    database: str | None,
    as_json: bool,
) -> None:
    """Put the mechanisms of finished STUDIES side by side: accuracy, memory and throughput, as ratios to softmax.

    An accuracy comes from the study's confirmation, where it has one, or from the seeds that it searched; a single
    search score is marked as such. Published figures are shown apart, with their sources.

    \b
    proxytune compare paper-listops
    proxytune compare text-proxyformer text-softmax --measure --out comparison.html
    """
    from proxytune.tuning.compare import page as page
    from proxytune.tuning.compare.compare import compare, specs_without_speed
    from proxytune.tuning.compare.published import PROXYFORMER
    from proxytune.tuning.confirm.confirm import efficiency_folder
    from proxytune.tuning.store.study import open_study

    formats = {".html": page.as_html, ".md": page.as_markdown, ".csv": page.as_csv}
    if path is not None and (path.exists() or path.suffix not in formats):
        raise InputError(f"--out {path}: name a new file that ends in {', '.join(formats)}")
    if len(set(studies)) < len(studies):
        raise InputError("a study is named twice; name each once")
    opened = [open_study(study, storage, database) for study in studies]
    found = compare(opened)
    if measure:
        from proxytune.tuning.trial.efficiency import stored_efficiency

        for study in opened:
            for spec in specs_without_speed(study, found.rows):
                err.print(f"measuring {spec.model['attention']} of study {study.name}", highlight=False)
                stored_efficiency(spec, efficiency_folder(study))
        found = compare(opened)
    if path is not None:
        temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        temporary.write_text(formats[path.suffix](found), encoding="utf-8")
        os.replace(temporary, path)
        err.print(f"written: {path.absolute()}", highlight=False)
    others = page.published_tables([row.task for row in found.rows])
    if as_json:
        published = [{"source": title, "head": head, "rows": rows} for title, head, rows in others]
        print_json(found.to_json() | {"published": published, "proxyformer": PROXYFORMER})
        return
    _show("measured by proxytune", page.HEAD, [page.cells(row) for row in found.rows])
    for note in found.notes:
        out.print(f"- {note}", highlight=False, markup=False)
    for title, head, rows in others:
        _show(f"published, test accuracy in %: {title}", head, rows)
    if others:
        out.print(PROXYFORMER, highlight=False, markup=False)


def _show(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from proxytune.tuning.compare import page as page

    table = Table(title=title, title_justify="left", pad_edge=False, box=None)
    for name in head:
        table.add_column(name, justify="left" if name in page.WORDS else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table)
