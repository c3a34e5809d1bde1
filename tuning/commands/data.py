"""`data`: the tasks' data on this machine."""

import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
from rich.table import Table

from proxytune.datasets import TASKS, DataError, Finding, PreparedTask, find_sources, inspect
from proxytune.datasets.errors import printable
from proxytune.datasets.parallel import Mapper, process_map
from proxytune.datasets.prepare import make_task
from proxytune.datasets.task import SPLITS
from proxytune.tuning.commands.options import address_option, err, json_option, out, print_json
from proxytune.tuning.trial.data import cache_folder

P = ParamSpec("P")
R = TypeVar("R")

FLAGS = {
    "task.files": "--option SPLIT=FILE (task.files)",
    "set task.partial: true": "add --allow-partial (task.partial: true)",
}
"""Command-line flags for keys in the library's errors."""


@click.group()
def data() -> None:
    """Find, prepare and inspect the tasks' data on this machine."""


root_option = click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Folder or archive with the data; default: generated data.",
)
options_option = click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the task, e.g. max_length=1000; or the file of a split, e.g. train=FILE.",
)
partial_option = click.option(
    "--allow-partial",
    is_flag=True,
    help="Accept incomplete data; the missing parts are recorded.",
)


def reported(command: Callable[P, R]) -> Callable[..., R]:
    """Add --verbose to a verb: errors about data list the searched locations only with it."""

    @click.option("--verbose", is_flag=True, help="If no data are found, list the searched locations.")
    @functools.wraps(command)
    def run(*args: Any, verbose: bool, **kwargs: Any) -> R:
        try:
            return command(*args, **kwargs)
        except DataError as error:
            message = str(error)
            for key, flag in FLAGS.items():
                message = message.replace(key, flag)
            more = [error.details] if verbose and error.details else []
            raise DataError(*message.splitlines(), *more) from None

    return run


def _prepared(
    task: str,
    root: Path | None,
    options: tuple[str, ...],
    allow_partial: bool,
    verb: str,
    mapper: Mapper = process_map,
) -> PreparedTask:
    from proxytune.tuning.run.data_progress import data_progress
    from proxytune.tuning.spec.task import Task
    from proxytune.tuning.spec.validation import validated
    from proxytune.tuning.spec.yaml_file import override
    from proxytune.tuning.trial.data import prepare_task

    # `validation` is also an option of text, with the values train and test.
    files = {
        key: Path(value)
        for key, _, value in (option.partition("=") for option in options)
        if key in SPLITS and not (key == "validation" and value in ("train", "test"))
    }
    others = [option for option in options if option.partition("=")[0] not in files]
    values: dict[str, Any] = {"name": task, "root": root, "files": files or None, "partial": allow_partial}
    with data_progress(err, task) as report:
        return prepare_task(validated(Task, override(values, others), verb), report, mapper)


@data.command("list")
@click.option("--root", type=click.Path(path_type=Path), required=True, help="Folder or archive to search.")
@json_option
@reported
def data_list(root: Path, as_json: bool) -> None:
    """Show the tasks whose data are under a root, their format, and what is missing.

    `ready`: prepared and verified. `found`: all files exist; `prepare` checks their rows.

    \b
    proxytune data list --root ~/data
    """
    findings = find_sources(root, cache_folder())
    generated = [name for name in TASKS if make_task(name).generator is not None]
    if as_json:
        print_json({"found": [asdict(finding) for finding in findings], "generated": generated})
        return
    out.print(_table(findings))
    without = [name for name in TASKS if name not in {finding.task for finding in findings}]
    out.print(f"nothing found for: {', '.join(without) or '-'}")
    out.print(f"generated without a root: {', '.join(generated)}")


def _table(findings: list[Finding]) -> Table:
    table = Table("task", "form", "place", "files", "status", "missing", box=None)
    for finding in findings:
        missing = ", ".join(finding.missing[:3]) + (" ..." if len(finding.missing) > 3 else "")
        form = f"{finding.form} ({finding.options})" if finding.options else finding.form
        cells = (
            finding.task or "-",
            form,
            finding.place,
            f"{finding.num_files:,}",
            finding.status,
            missing or "-",
        )
        table.add_row(*(printable(cell) for cell in cells))
    return table


@data.command("inspect")
@click.argument("task")
@root_option
@options_option
@partial_option
@click.option(
    "--examples", "num_examples", default=6, show_default=True, help="Number of examples to decode."
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder for the PNG files; default: with the prepared data.",
)
@json_option
@reported
def data_inspect(
    task: str,
    root: Path | None,
    options: tuple[str, ...],
    allow_partial: bool,
    num_examples: int,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Decode a few examples of TASK, count classes, and plot lengths and images as PNG.

    \b
    proxytune data inspect listops-mini
    proxytune data inspect pathfinder --option train_examples=100 --out look
    """
    prepared = _prepared(task, root, options, allow_partial, "data inspect")
    found = inspect(prepared, folder or prepared.folder / "inspection", num_examples=num_examples)
    if as_json:
        print_json(asdict(found))
        return
    for label, documents in found.examples:
        for document in documents:
            text = " ".join(document.split())
            _print_fact(f"class {label}", text if len(text) <= 160 else f"{text[:157]}...")
    facts = {
        "fingerprint": found.fingerprint,
        "rows": found.rows,
        "class counts": found.class_counts,
        "lengths": found.lengths,
        "lengths PNG": found.lengths_png,
        "examples PNG": found.examples_png or "-",
        **found.conventions,
    }
    for key, value in facts.items():
        _print_fact(key, value)


def _print_fact(key: str, value: object) -> None:
    out.print(printable(f"{key}: {value}"))


@data.command("prepare")
@click.argument("task")
@root_option
@options_option
@partial_option
@click.option("--on-ray", is_flag=True, help="Generate with Ray tasks instead of local processes.")
@address_option
@json_option
@reported
def data_prepare(
    task: str,
    root: Path | None,
    options: tuple[str, ...],
    allow_partial: bool,
    on_ray: bool,
    address: str,
    as_json: bool,
) -> None:
    """Find or generate TASK's data and convert it once for all studies of this machine.

    \b
    proxytune data prepare listops
    proxytune data prepare text --root ~/data/aclImdb_v1.tar.gz --option max_length=4000
    proxytune data prepare listops --address auto        on the cores of the cluster of this node
    proxytune data prepare listops --option train=a.tsv --option validation=b.tsv --option test=c.tsv
    """
    if on_ray or address != "local":
        from proxytune.tuning.cluster.session import ray_session

        with ray_session(address):
            from proxytune.tuning.cluster.ray_map import ray_map

            prepared = _prepared(task, root, options, allow_partial, "data prepare", ray_map)
    else:
        prepared = _prepared(task, root, options, allow_partial, "data prepare")
    facts = {
        "task": prepared.info.name,
        "folder": str(prepared.folder),
        "fingerprint": prepared.fingerprint,
        "examples": {"train": len(prepared.train), "validation": len(prepared.validation)},
        "vocab_size": prepared.info.vocab_size,
        "max_length": prepared.info.max_length,
        "num_classes": prepared.info.num_classes,
        "conventions": dict(prepared.info.conventions),
    }
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        if key != "conventions":
            _print_fact(key, value)
    for key, value in prepared.info.conventions.items():
        _print_fact(key, value)
