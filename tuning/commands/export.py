"""`export`: write the winner, or other trials, as self-contained folders."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxytune.tuning.commands.options import database_option, err, out, storage_option
from proxytune.tuning.errors import InputError, ProxytuneError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxytune.tuning.export.export import ExportResult
    from proxytune.tuning.store.study import Study


@click.command()
@click.argument("study")
@click.option("--trial", "number", type=click.IntRange(0), help="A trial's number; default: the winner.")
@click.option("--pareto", is_flag=True, help="Write a folder per trial of the Pareto front, and an index.")
@click.option(
    "--max-memory-mib",
    type=click.FloatRange(min=0, min_open=True),
    help="Export the best trial with at most this training memory per sequence, in MiB.",
)
@click.option(
    "--min-throughput",
    type=click.FloatRange(min=0, min_open=True),
    help="Export the best trial with at least this training speed, in sequences per second.",
)
@click.option("--out", "path", required=True, help="The folder to write, or s3://bucket/prefix.")
@click.option("--register/--no-register", default=True, help="Register the model in the study's MLflow.")
@storage_option
@database_option
def export(
    study: str,
    number: int | None,
    pareto: bool,
    max_memory_mib: float | None,
    min_throughput: float | None,
    path: str,
    register: bool,
    storage: Path,
    database: str | None,
) -> None:
    """Export the winner of STUDY as one self-contained folder: model, configuration, card, search record, digests.

    The winner is that of the confirmation, or of the search where there is no confirmation.

    \b
    proxytune export listops-mini --out winner
    proxytune export listops-mini --pareto --out front
    proxytune export listops-mini --max-memory-mib 4 --out small
    proxytune export listops-mini --out s3://bucket/winner
    proxytune verify winner
    """
    from proxytune.tuning.export.destination import destination
    from proxytune.tuning.export.export import export_study
    from proxytune.tuning.export.request import export_request
    from proxytune.tuning.store.study import open_study

    if (number is not None) + pareto + (max_memory_mib is not None or min_throughput is not None) > 1:
        raise InputError(
            "--trial, --pareto and --max-memory-mib / --min-throughput exclude each other; choose one"
        )
    request = export_request(
        trial=number, pareto=pareto, max_memory_mib=max_memory_mib, min_throughput=min_throughput
    )
    opened = open_study(study, storage, database)
    with destination(path) as folder:
        with err.status("choosing") as status:
            written = export_study(opened, folder, request, status.update)
        for result in written:
            local = str(result.folder.absolute())
            shown = local.replace(str(folder.absolute()), path) if "://" in path else local
            values = ", ".join(f"{name} {value:.4g}" for name, value in result.record.values.items())
            out.print(f"trial {result.record.trial} ({values}) -> {shown}")
            out.print(f"  {result.selection.text}")
        if register:
            _register(opened, written)


def _register(study: "Study", written: "Sequence[ExportResult]") -> None:
    from proxytune.tuning.predict.registry import ALIAS
    from proxytune.tuning.predict.registry import register as register_models

    with err.status("registering in MLflow"):
        try:
            models = register_models(study, written)
        except ProxytuneError as error:
            err.print(f"not registered: {error}. The export is complete without it")
            return
    for model in models:
        alias = f", alias {ALIAS}" if model["best"] else ""
        out.print(f"registered in MLflow as {model['name']} version {model['version']}{alias}")
