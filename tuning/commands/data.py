"""`proxytune data`: the tasks' data on this machine."""

import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
from rich.markup import escape
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
"""What the library's keys are on the command line."""


@click.group()
def data() -> None:
    """Find, prepare and look at the tasks' data on this machine."""


root_option = click.option(
    "--root", type=click.Path(path_type=Path), help="Folder or archive with the data; none: generated."
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
    help="Use data in which something is missing; what is missing is recorded.",
)


def reported(command: Callable[P, R]) -> Callable[..., R]:
    """Give a verb --verbose: a refusal is short, and lists what was tried only when asked to."""

    @click.option("--verbose", is_flag=True, help="List the places that were tried, where nothing was found.")
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

    # `validation` is also an option of text, whose values are words; a file's name has a dot or a slash.
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
@click.option(
    "--root", type=click.Path(path_type=Path), required=True, help="Folder or archive to look through."
)
@json_option
@reported
def data_list(root: Path, as_json: bool) -> None:
    """Show which tasks' data lie under a root, in which form, and what is missing.

    `ready` is prepared and verified; of `found` all files are there, and `prepare` checks their rows.

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
    out.print(f"nothing found for: {', '.join(without) or '-'}", highlight=False)
    out.print(f"generated without a root: {', '.join(generated)}", highlight=False)


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
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table


@data.command("inspect")
@click.argument("task")
@root_option
@options_option
@partial_option
@click.option("--examples", "num_examples", default=6, show_default=True, help="How many to decode.")
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Where the PNG files go; by default beside the prepared data.",
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
    """Decode a few examples of TASK, count classes, and draw lengths and pictures as PNG.

    \b
    proxytune data inspect listops-mini
    proxytune data inspect pathfinder --option train_examples=100 --out look
    """
    prepared = _prepared(task, root, options, allow_partial, "data inspect")
    seen = inspect(prepared, folder or prepared.folder / "inspection", num_examples=num_examples)
    if as_json:
        print_json(asdict(seen))
        return
    for label, documents in seen.examples:
        for document in documents:
            text = " ".join(document.split())
            _say(f"class {label}", text if len(text) <= 160 else f"{text[:157]}...")
    facts = {
        "fingerprint": seen.fingerprint,
        "rows": seen.rows,
        "class counts": seen.class_counts,
        "lengths": seen.lengths,
        "lengths PNG": seen.lengths_png,
        "examples PNG": seen.examples_png or "-",
        **seen.conventions,
    }
    for key, value in facts.items():
        _say(key, value)


def _say(key: str, value: object) -> None:
    out.print(printable(f"{key}: {value}"), highlight=False, markup=False)


@data.command("prepare")
@click.argument("task")
@root_option
@options_option
@partial_option
@click.option("--on-ray", is_flag=True, help="Generate as Ray tasks instead of processes of this machine.")
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
    proxytune data prepare listops --address auto        on the cores of the cluster that this node belongs to
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
            _say(key, value)
    for key, value in prepared.info.conventions.items():
        _say(key, value)
