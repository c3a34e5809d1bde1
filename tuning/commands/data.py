"""`proxytune data`: the tasks' data on this machine."""

from dataclasses import asdict
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from proxytune.datasets import TASKS, PreparedTask, find_sources, inspect
from proxytune.datasets.parallel import Mapper, process_map
from proxytune.datasets.prepare import make_task
from proxytune.tuning.commands.options import err, json_option, out, print_json


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
    help="An option of the task, e.g. max_length=1000.",
)


def _prepared(
    task: str, root: Path | None, options: tuple[str, ...], verb: str, mapper: Mapper = process_map
) -> PreparedTask:
    from proxytune.tuning.run.progress import data_progress
    from proxytune.tuning.spec.trial_spec import Task
    from proxytune.tuning.spec.validation import validated
    from proxytune.tuning.spec.yaml_file import override
    from proxytune.tuning.trial.data import prepare_task

    values = override({"name": task, "root": root}, options)
    with data_progress(err, task) as report:
        return prepare_task(validated(Task, values, verb), report, mapper)


@data.command("list")
@click.option(
    "--root", type=click.Path(path_type=Path), required=True, help="Folder or archive to look through."
)
@json_option
def data_list(root: Path, as_json: bool) -> None:
    """Show which tasks' data lie under a root, in which form, and what is missing.

    \b
    proxytune data list --root ~/data
    """
    findings = find_sources(root)
    generated = [name for name in TASKS if make_task(name).generator is not None]
    if as_json:
        print_json({"found": [asdict(finding) for finding in findings], "generated": generated})
        return
    table = Table("task", "form", "place", "files", "missing", box=None)
    for finding in findings:
        missing = ", ".join(finding.missing) or "-"
        form = f"{finding.form} ({finding.options})" if finding.options else finding.form
        cells = (finding.task, form, finding.place, f"{finding.num_files:,}", missing)
        table.add_row(*map(escape, cells))
    out.print(table)
    without = [name for name in TASKS if name not in {finding.task for finding in findings}]
    out.print(f"nothing found for: {', '.join(without) or '-'}", highlight=False)
    out.print(f"generated without a root: {', '.join(generated)}", highlight=False)


@data.command("inspect")
@click.argument("task")
@root_option
@options_option
@click.option("--examples", "num_examples", default=6, show_default=True, help="How many to decode.")
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Where the PNG files go; by default beside the prepared data.",
)
@json_option
def data_inspect(
    task: str,
    root: Path | None,
    options: tuple[str, ...],
    num_examples: int,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Decode a few examples of TASK, count classes, and draw lengths and pictures as PNG.

    \b
    proxytune data inspect listops-mini
    proxytune data inspect pathfinder --option train_examples=100 --out look
    """
    prepared = _prepared(task, root, options, "data inspect")
    seen = inspect(prepared, folder or prepared.folder / "inspection", num_examples=num_examples)
    if as_json:
        print_json(asdict(seen))
        return
    for label, documents in seen.examples:
        for document in documents:
            text = " ".join(document.split())
            shown = text if len(text) <= 160 else f"{text[:157]}..."
            out.print(f"class {label}: {shown}", highlight=False, markup=False)
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
        out.print(f"{key}: {value}", highlight=False, markup=False)


@data.command("prepare")
@click.argument("task")
@root_option
@options_option
@click.option("--on-ray", is_flag=True, help="Generate as Ray tasks instead of processes of this machine.")
@json_option
def data_prepare(task: str, root: Path | None, options: tuple[str, ...], on_ray: bool, as_json: bool) -> None:
    """Find or generate TASK's data and convert it once for all studies of this machine.

    \b
    proxytune data prepare listops
    proxytune data prepare text --root ~/data/aclImdb_v1.tar.gz --option max_length=4000
    """
    if on_ray:
        from proxytune.tuning.cluster.session import ray_session

        with ray_session():
            from proxytune.tuning.cluster.ray_map import ray_map

            prepared = _prepared(task, root, options, "data prepare", ray_map)
    else:
        prepared = _prepared(task, root, options, "data prepare")
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
        out.print(f"{key}: {value}", highlight=False, markup=False)
